"""Arithmetic and interpolation of the states from which flows begin: in closed form, by law, and through the command line."""

from pathlib import Path
from typing import ClassVar

import pytest
import torch
from PIL import Image

import flowbind
from flowbind import Method, draws
from flowbind.flow.arithmetic import between, shift, standardize
from flowbind.generation import Model
from flowbind.method import Networks
from flowbind.release import save
from flowbind.testing.method import Subject
from tests import toy_kinds
from tests.released import make_model
from tests.test_methods import METHODS
from tests.toy import ToyCodec, Vector, Word

WORDS = ["203", "111", "330", "002", "123"]
OTHERS = ["310", "222", "013", "101", "030"]


class Carry(Method):
    """A linear method in closed form: a state is the latent with noise on it, and every target is the state."""

    Sampling = toy_kinds.NoChoices
    linear: ClassVar = True

    def build(self):
        return torch.nn.Linear(1, 1)

    def draw(self, batch, key):
        raise NotImplementedError

    losses = draw

    def start(self, nets, name, x, sampling, streams):
        return x + draws.normal(streams, *x.shape[1:])

    def fuse(self, states, sampling, streams):
        return torch.stack(list(states)).mean(0)

    def finish(self, nets, state, targets, sampling, streams):
        return dict.fromkeys(targets, state)

    def offers(self, sources, targets):
        return bool(sources) and bool(targets) and set(sources) <= {"word", "vector"}


class DrawingCodec(ToyCodec):
    """One that draws when it decodes."""

    def decode(self, latents, generator=None):
        noise = torch.randn(len(latents), 3, generator=generator)
        return list(latents.cpu() @ self.basis + noise)


@pytest.fixture
def carry(toys):
    method = Carry({"word": Word(), "vector": Vector(), "other": Vector()})
    return Model(method, Networks(method))


def fresh_model(**modalities):
    """FlowBind with flows that carry latents somewhere."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make_model(modalities or {"word": Word(), "vector": Vector()})
        for parameter in model.networks.nets.drifts.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=0.2)
    return model


@pytest.fixture
def model(toys):
    return fresh_model()


def vectors(count=5, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(3, generator=generator) for _ in range(count)]


def test_states_are_added_and_taken_away(carry):
    """Codec latents come out: the noise that all terms share is on them once, whatever their number."""
    x = {
        name: carry.encode("word", words)
        for name, words in zip("ab", (WORDS, OTHERS), strict=True)
    }
    v = carry.encode("vector", vectors(1))
    noise = draws.normal(carry.streams(5, seed=4), 8)
    states = carry.translate(
        {"word": x["a"]},
        ["other"],
        plus=[("vector", v), ("word", x["b"])],
        minus=[("word", x["b"][:1]), ("word", x["a"][2:3])],
        seed=4,
    )["other"]
    expected = x["a"] + v + x["b"] - x["b"][:1] - x["a"][2:3] + noise
    torch.testing.assert_close(states, expected)


def test_every_source_is_changed_before_they_are_fused(carry):
    words, others = carry.encode("word", WORDS), carry.encode("word", OTHERS)
    v = carry.encode("vector", vectors())
    sources = {"word": words, "vector": v}
    plain = carry.translate(sources, ["other"])["other"]
    noise = draws.normal(carry.streams(5), 8)
    changed = carry.translate(sources, ["other"], plus=[("word", others)])["other"]
    torch.testing.assert_close(changed, plain + others + noise)


def test_a_state_is_standardised_as_a_whole_and_each_source_by_itself(carry):
    latents = {"word": carry.encode("word", WORDS)}
    state = carry.translate(latents, ["other"], restandardize=True)["other"]
    plain = carry.translate(latents, ["other"])["other"]
    for row, whole in zip(plain, state, strict=True):
        torch.testing.assert_close(whole, (row - row.mean()) / row.std())

    both = latents | {"vector": carry.encode("vector", vectors())}
    fused = carry.translate(both, ["other"], restandardize=True)["other"]
    parts = []
    for name, x in both.items():
        parts.append(carry.translate({name: x}, ["other"], restandardize=True)["other"])
    torch.testing.assert_close(fused, (parts[0] + parts[1]) / 2)


@pytest.mark.parametrize("shape", [(6,), (3, 4), (2, 3, 4)])
def test_states_of_every_kind(shape):
    generator = torch.Generator().manual_seed(0)
    a, b, c = torch.randn(3, 5, *shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(shift(a, [b, c], [c]), a + b, rtol=0, atol=1e-14)
    assert torch.equal(shift(a, [b, c], [b, c], 0.3), a)
    torch.testing.assert_close(shift(a, [b], [c], -0.5), a - 0.5 * b + 0.5 * c)

    line = between(a[:1], b[:1], torch.tensor([0.0, 0.25, 1.0, 2.0]).double())
    assert torch.equal(line[0], a[0])
    assert torch.equal(line[2], b[0])
    torch.testing.assert_close(line[1], 0.75 * a[0] + 0.25 * b[0])
    torch.testing.assert_close(line[3], 2 * b[0] - a[0])

    whole = standardize(7 + 3 * a).flatten(1)
    torch.testing.assert_close(whole.mean(1), torch.zeros(5).double())
    torch.testing.assert_close(whole.std(1), torch.ones(5).double())


SOURCES = [{"word": WORDS}, {"word": WORDS, "vector": vectors()}]


@pytest.mark.parametrize("sources", SOURCES, ids=len)
@pytest.mark.parametrize("variety", [0.0, 1.0])
def test_plus_and_minus_the_same_is_nothing(model, sources, variety):
    """To the bit, whatever it is; to rounding in another order; and not without one of the two."""
    plain = model.generate(sources, "vector", variety=variety)["vector"]
    terms = [{"word": "123"}, {"vector": vectors(5, seed=8), "word": OTHERS}]
    same = model.generate(sources, "vector", plus=terms, minus=terms, variety=variety)
    assert all(map(torch.equal, same["vector"], plain))

    turned = model.generate(
        sources, "vector", plus=terms, minus=terms[::-1], variety=variety
    )
    torch.testing.assert_close(turned["vector"], plain, rtol=1e-4, atol=1e-4)
    once = model.generate(sources, "vector", plus=terms, variety=variety)["vector"]
    assert not any(map(torch.equal, once, plain))


def test_a_term_is_for_all_samples_or_each_has_its_own(model):
    """As if each were generated by itself."""
    options = {"to": "vector", "variety": 1.0, "seed": 2}
    together = model.generate(
        {"word": WORDS}, plus={"word": OTHERS}, minus={"word": "123"}, **options
    )
    for number, (word, other) in enumerate(zip(WORDS, OTHERS, strict=True)):
        alone = model.generate(
            {"word": word},
            plus={"word": other},
            minus={"word": "123"},
            first=number,
            **options,
        )
        # The toy codecs' own rounding depends on the batch; test_alone has the bits.
        torch.testing.assert_close(alone["vector"][0], together["vector"][number])


@pytest.mark.parametrize("sources", SOURCES, ids=len)
@pytest.mark.parametrize("variety", [0.0, 1.0])
def test_an_interpolation_ends_in_its_sources(sources, variety):
    """To the bit, with what fusing and decoding draw; in its midst it is what the mean state gives."""
    model = fresh_model(
        word=Word(), vector=Vector(), other=Vector(DrawingCodec(seed=2))
    )
    pair = {name: samples[:2] for name, samples in sources.items()}
    options = {"to": ["vector", "other"], "variety": variety, "seed": 6}
    shares = torch.linspace(0, 1, 5)
    line = model.interpolate(pair, shares=shares, **options)
    for end, place in ((0, 0), (1, -1)):
        alone = {name: samples[end] for name, samples in pair.items()}
        alone = {name: [sample] for name, sample in alone.items()}
        plain = model.generate(alone, **options)
        for name in options["to"]:
            assert torch.equal(line[name][place], plain[name][0])

    streams = model.streams(1, seed=6)
    sampling = model.method.choose(variety=variety)
    states = []
    for name, samples in pair.items():
        ends = model.start(
            name, model.encode(name, samples), sampling, streams.expand(2)
        )
        states.append(0.5 * ends[:1] + 0.5 * ends[1:])
    state = model.method.fuse(states, sampling, streams)
    latents = model.finish(state, ["vector"], sampling, streams)["vector"]
    (expected,) = model.codec("vector", "decode").decode(latents)
    torch.testing.assert_close(line["vector"][2], expected, rtol=1e-4, atol=1e-5)
    assert not torch.equal(line["vector"][2], line["vector"][1])

    part = model.interpolate(pair, shares=shares[1:3], **options)
    for name in options["to"]:
        assert all(map(torch.equal, part[name], line[name][1:3]))


def test_all_of_a_line_have_one_noise(carry):
    """Raw samples come out, of latents that are mixed, with the noise of the sample with number 0."""
    a, b = carry.encode("word", WORDS[:2])
    noise = draws.normal(carry.streams(1, seed=4), 8)
    states = torch.stack([a, 0.75 * a + 0.25 * b, b]) + noise
    expected = ToyCodec().decode(states)
    pair = {"word": WORDS[:2]}
    line = carry.interpolate(pair, "other", [0, 0.25, 1], seed=4)["other"]
    torch.testing.assert_close(line, expected)

    whole = carry.interpolate(pair, "other", [0.25], seed=4, restandardize=True)
    standard = (states[1] - states[1].mean()) / states[1].std()
    torch.testing.assert_close(whole["other"], ToyCodec().decode(standard[None]))


def test_one_sample_of_a_source_is_at_both_ends(model):
    v = vectors(1)[0]
    one = model.interpolate({"word": WORDS[:2], "vector": [v]}, "word", [0.3])
    two = model.interpolate({"word": WORDS[:2], "vector": [v, v]}, "word", [0.3])
    assert one == two


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"plus": "blue"},
            r"plus is given by modality, such as \{'a': 'x'\}, or as a list",
        ),
        ({"minus": {"word": 3}}, "minus 'word': a list of samples is needed"),
        ({"plus": [{"word": []}]}, "plus 'word': no sample in it"),
        (
            {"plus": {"word": OTHERS[:2]}},
            "plus 'word' has 2 samples, and the sources 5",
        ),
        ({"strength": "much"}, "strength must be finite numbers"),
        ({"plus": {"wrod": "123"}}, "did you mean 'word'"),
        ({"plus": {"word": "12"}}, "'12' is no word"),
        ({"plus": {"other": vectors(1)}}, "does not make other->vector"),
        ({"sources": {}, "plus": {"word": "123"}}, "needs at least one source"),
    ],
    ids=str,
)
def test_mistakes_in_terms(carry, arguments, said):
    with pytest.raises(ValueError, match=said):
        carry.generate(**{"sources": {"word": WORDS}, "to": "vector"} | arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"sources": {"word": WORDS}}, "between two samples, not 5"),
        ({"sources": {"word": "123"}}, "between two samples, not 1"),
        ({"sources": {}}, "sources are given by modality"),
        ({"shares": []}, "shares must be finite numbers"),
        ({"shares": 9}, "shares must be finite numbers, not 9"),
        ({"shares": [0, float("nan")]}, "shares must be finite numbers"),
        ({"to": "vectro"}, "did you mean 'vector'"),
        ({"plus": {"word": "123"}}, "no sampling choice 'plus'"),
    ],
    ids=str,
)
def test_mistakes_in_an_interpolation(carry, arguments, said):
    given = {"sources": {"word": WORDS[:2]}, "to": "vector", "shares": [0, 1]}
    with pytest.raises(ValueError, match=said):
        carry.interpolate(**given | arguments)


def test_what_a_term_loses_is_said_of_the_term(model, capsys):
    model.generate({"word": "203"}, "vector", minus={"word": ["999"]})
    assert capsys.readouterr().err.startswith(
        "minus 'word'[0] (999) is far from all that"
    )


@pytest.mark.parametrize("name", METHODS)
def test_laws_of_arithmetic_for_every_method(name):
    """Of each direction from one source, in latents, with whatever the method draws.

    A method whose states are not linear refuses.
    """
    subject = Subject(METHODS[name]())
    method = subject.method
    model = Model(method, subject.networks)
    if not method.linear:
        (source,), (target,) = method.directions()[0]
        x = subject.batch(subject.complete).latents[source][:1]
        with pytest.raises(ValueError, match="cannot be added or mixed"):
            model.translate({source: x}, [target], plus=[(source, x)])
        return

    for source, target in {(d.sources[0], d.targets[0]) for d in method.directions()}:
        x, terms = subject.batch(subject.complete).latents[source][:4].split(2)

        plain = model.translate({source: x}, [target])[target]
        both = {"plus": [(source, terms)], "minus": [(source, terms)]}
        same = model.translate({source: x}, [target], **both)[target]
        assert torch.equal(same, plain)
        swapped = {"plus": [(source, terms)], "minus": [(source, x)]}
        other = model.translate({source: x}, [target], **swapped)[target]
        wanted = model.translate({source: terms}, [target])[target]
        torch.testing.assert_close(other, wanted, rtol=1e-3, atol=1e-4)
        assert not torch.allclose(other, plain)


@pytest.fixture
def folder(model, tmp_path):
    save(model, tmp_path / "model")
    return tmp_path / "model"


def read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_arithmetic_through_the_command_line(folder, command, tmp_path):
    """The files are what Python gives, however the batch is cut."""
    (tmp_path / "others.list").write_text("\n".join(OTHERS))
    arguments = ["--to", "vector", "--seed", 3, "--variety", 1]
    for word in WORDS:
        arguments += ["--from", f"word={word}"]
    arguments += [
        "--strength",
        0.5,
        "--minus",
        "word=123",
        "--plus",
        f"word=@{tmp_path}/others.list",
    ]
    for batch in (1, 2, 256):
        out = tmp_path / str(batch)
        code, _, err = command(
            "generate", folder, *arguments, "--batch", batch, "--out", out
        )
        assert code == 0, err
    assert list(read(tmp_path / "1"))[1] == "1-111+plus-222+minus-123.vector.vec"

    model = flowbind.load(folder)
    raws = model.generate(
        {"word": WORDS},
        "vector",
        plus={"word": OTHERS},
        minus={"word": "123"},
        strength=0.5,
        seed=3,
        variety=1,
    )["vector"]
    for batch in (1, 2, 256):
        files = sorted((tmp_path / str(batch)).iterdir())
        again = [model.modality("vector").read(file) for file in files]
        torch.testing.assert_close(again, raws)


def test_interpolation_through_the_command_line(folder, command, tmp_path):
    """Numbered files, and one picture of what can be shown as one; the ends are the sources."""
    options = ["--to", "vector", "--to", "word", "--variety", 1]
    pair = ["--from", "word=203", "--from", "word=330"]
    for batch in (2, 256):
        line = [*options, *pair, "--interpolate", 5, "--batch", batch]
        code, out, err = command(
            "generate", folder, *line, "--out", tmp_path / str(batch)
        )
        assert code == 0, err
    made = read(tmp_path / "256")
    assert made == read(tmp_path / "2")
    assert [Path(path).name for path in out.splitlines()] == [
        *(f"{number}-203+330.vector.vec" for number in range(5)),
        *(f"{number}-203+330.word.word" for number in range(5)),
        "strip.png",
    ]
    with Image.open(tmp_path / "256/strip.png") as strip:
        assert strip.size == (5 * 128 + 4 * 4, 128)  # words are not in it

    for place, word in ((0, "203"), (4, "330")):
        alone = [*options, "--from", f"word={word}", "--out", tmp_path / word]
        assert command("generate", folder, *alone)[0] == 0
        plain = read(tmp_path / word)
        for name in ("vector.vec", "word.word"):
            assert plain[f"{word}.{name}"] == made[f"{place}-203+330.{name}"]

    code, _, err = command("generate", folder, *line, "--out", tmp_path / "256")
    assert (code, "and 10 more, is there already" in err) == (2, True), err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--interpolate 3", "goes between two samples, not 1"),
        (
            "--from word=111 --from word=222 --interpolate 3",
            "between two samples, not 3",
        ),
        (
            "--from word=111 --interpolate 1",
            "takes a whole number, at least 2, not '1'",
        ),
        (
            "--from word=111 --interpolate 3 --plus word=222",
            "leave out --plus and --minus",
        ),
        ("--from word=111 --interpolate 3 --count 1", "leave out --count"),
        ("--strength 0.5", "--strength is that of --plus and --minus"),
        ("--plus word=1 --strength nan", "takes a number, not 'nan'"),
        ("--plus word", "--plus takes NAME=VALUE"),
        ("--minus wrod=123", "did you mean 'word'"),
        ("--minus vector=none.vec", "--minus vector=none.vec: no such file"),
        ("--plus word=@two.list", "--plus 'word' has 2 samples, and the sources 1"),
    ],
)
def test_choices_that_do_not_go_together(
    folder, command, tmp_path, monkeypatch, options, said
):
    monkeypatch.chdir(tmp_path)
    Path("two.list").write_text("111\n222\n")
    given = ["--from", "word=203", "--to", "vector", "--out", "out", *options.split()]
    code, out, err = command("generate", folder, *given)
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert said in err
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "options",
    [
        "--plus word=123",
        "--minus word=123",
        "--from word=111 --interpolate 3",
        "--restandardize",
    ],
)
def test_a_method_that_is_not_linear_refuses(toys, command, tmp_path, options):
    method = toy_kinds.Regression(toy_kinds.modalities())
    model = Model(method, Networks(method))
    save(model, tmp_path / "model")
    given = [
        "--from",
        "word=203",
        "--to",
        "grid",
        "--out",
        tmp_path / "out",
        *options.split(),
    ]
    code, out, err = command("generate", tmp_path / "model", *given)
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert "the states of Regression cannot be added or mixed" in err
    assert not (tmp_path / "out").exists()


def test_python_refuses_it_as_well(toys):
    method = toy_kinds.Regression(toy_kinds.modalities())
    model = Model(method, Networks(method))
    calls = [
        lambda: model.generate({"word": "203"}, "grid", plus={"word": "123"}),
        lambda: model.generate({"word": "203"}, "grid", restandardize=True),
        lambda: model.interpolate({"word": WORDS[:2]}, "grid", [0, 1]),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="Regression cannot be added or mixed"):
            call()
