"""The command line: every option holds wherever it stands, and every mistake is one line and exit code 2."""

import itertools
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import yaml
from lightning.pytorch.loggers import CSVLogger

import flowbind.progress
from flowbind.cli import VERBS
from flowbind.cli.options import Option, split
from flowbind.cli.recipe import build, chosen_part
from tests.processes import flowbind as flowbind_process
from tests.processes import imported_by, make_world
from tests.released import release
from tests.toy import RECIPE, Vector, Word
from tests.write_formats import CODEC

ROOT = Path(__file__).parents[1]
RECIPE_VERBS = ("fit", "validate", "test", "encode")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w.-]*")


@pytest.fixture
def recipe(tmp_path, toys):
    """A recipe of the toy world, without its data."""
    path = tmp_path / "recipe.yaml"
    path.write_text(
        RECIPE.format(data=tmp_path / "data", run=tmp_path / "run", steps=20)
    )
    return path


@pytest.fixture
def mistake(command, tmp_path):
    """Runs a command that is a mistake: exit code 2, one line, nothing printed and nothing written. Returns the line."""

    def run(*arguments):
        before = sorted(tmp_path.rglob("*"))
        code, out, err = command(*arguments)
        assert (code, out) == (2, ""), (arguments, err, out)
        assert len(err.strip().splitlines()) == 1, (arguments, err)
        assert err.startswith("flowbind: "), err
        assert sorted(tmp_path.rglob("*")) == before, "a mistake leaves nothing behind"
        return err

    return run


# Where options stand.


def test_an_option_overrides_every_recipe_wherever_it_stands(recipe, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(
        "trainer: {max_steps: 30, log_every_n_steps: 7}\ntraining: {learning_rate: 0.25}\n"
    )
    first, second = [f"--config={recipe}"], ["-c", str(other)]
    option, deep = ["--trainer.max_steps", "3"], ["--model.init_args.drift.width=8"]
    orders = [
        order
        for order in itertools.permutations([first, second, option, deep])
        if order.index(first) < order.index(second)
    ]
    assert len(orders) == 12
    for order in orders[::3]:
        cli = build([*itertools.chain(*order)])
        assert cli.trainer.max_steps == 3
        assert cli.model.method.drift.width == 8
        # The later recipe's.
        assert (
            cli.trainer.log_every_n_steps,
            cli.model.training_config.learning_rate,
        ) == (
            7,
            0.25,
        )


@pytest.mark.parametrize(
    "config",
    [
        ["--config", "a.yaml"],
        ["--config=a.yaml"],
        ["-c", "a.yaml"],
        ["-ca.yaml"],
        ["-c=a.yaml"],
    ],
)
def test_a_recipe_and_a_value_may_be_given_in_several_ways(
    config, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").touch()
    for options in (["--x", "-1e-4"], ["--x=-1e-4"]):
        assert split("fit", [*options, *config]) == (
            [Path("a.yaml")],
            [Option("--x", "-1e-4")],
        )


def test_of_an_option_given_twice_the_last_holds_and_a_line_says_so(recipe, command):
    verb = ["fit", "--config", recipe, "--print_config"]
    for first, last in (
        ("--model.drift.width", "--model.drift.width"),
        ("--model.drift.width", "--model.init_args.drift.width"),
        ("--model.init_args.drift.width", "--model.drift.width"),
    ):
        code, out, err = command(*verb, f"{first}=8", f"{last}=16")
        told = (
            "--model.drift.width is given twice, as '8' and as '16'; the last holds\n"
        )
        assert (code, err) == (0, told)
        assert yaml.safe_load(out)["model"]["init_args"]["drift"]["width"] == 16
    assert command(*verb, "--seed_everything=1", "--seed_everything=1")[2] == ""
    _, _, err = command("verify", "--foo", "1")
    assert "given twice" not in err
    for option in (["--seed", "1", "--seed", "2"], ["--seed=1", "--seed=2"]):
        _, _, err = command(
            "generate", "none", "--from", "a=b", "--to", "c", "--out", "none", *option
        )
        assert err.startswith(
            "--seed is given twice, as '1' and as '2'; the last holds\n"
        )


def test_options_that_would_undo_one_another(recipe, mistake):
    fit = ["fit", "--config", recipe]
    undone = mistake(*fit, "--model.drift.width=8", "--model.drift={depth: 1}")
    assert "--model.drift would undo --model.drift.width" in undone
    appended = [
        "--trainer.callbacks+=A",
        "--trainer.callbacks.x=1",
        "--trainer.callbacks+=B",
        "--trainer.callbacks.x=2",
    ]
    assert [
        str(option) for option in split("fit", ["-c", str(recipe), *appended])[1]
    ] == appended


def test_options_lead_through_default_codecs_and_registered_names(recipe):
    """A codec that the recipe leaves to its modality can be given arguments, and names stand for classes."""
    cli = build(
        [
            "--config",
            str(recipe),
            "--model.modalities.vector.codec.seed=5",
            "--model.modalities.word=word",
        ]
    )
    assert cli.model.modalities["vector"].codec.seed == 5
    cli = build(
        [
            "--config",
            str(recipe),
            "--model.modalities.word.codec=toy-word",
            "--model.modalities.word.codec.seed=2",
        ]
    )
    assert cli.model.modalities["word"].codec.seed == 2


# Names.


def options_of(verb, command, *arguments):
    """The names of a verb's options, as its help lists them."""
    code, out, _ = command(verb, *arguments, "--help")
    assert code == 0
    return sorted(
        {name for name in OPTION.findall(out) if not name.endswith(".help")}
        - {"--config"}
    )


@pytest.mark.parametrize(
    "verb",
    [
        pytest.param(verb, marks=pytest.mark.slow)
        if verb in ("validate", "test")
        else verb
        for verb in VERBS
    ],
)
def test_prefixes_are_refused_and_the_whole_name_is_told(
    verb, command, mistake, recipe
):
    parts = {"prepare": ["folder"], "data": ["preview"], "recipes": ["copy"]}
    given = parts.get(verb, ["model"] if verb == "generate" else [])
    given = ["--config", recipe] if verb in RECIPE_VERBS else given
    names = options_of(verb, command, *parts.get(verb, []))
    assert names
    for name in names:
        line = mistake(
            verb, *given, f"{name[:-1]}=1" if len(name) > 6 else f"{name}x=1"
        )
        assert re.search(r"no option|required", line), line
        if len(name) > 8 and "required" not in line:
            assert (
                f"did you mean {name}" in line or f"did you mean {name[:-1]}" in line
            ), line


@pytest.mark.parametrize("verb", ["fit", "encode"])
@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--training.learning_rat", "--training.learning_rate"),
        ("--learning_rate", "--training.learning_rate"),
        ("--max_steps", "--trainer.max_steps"),
        ("--trainer.max_step", "--trainer.max_steps"),
        ("--data.batchsize", "--data.batch_size"),
        ("--model.drift.widht", "--model.drift.width"),
        (
            "--model.modalities.vector.codec.sede",
            "--model.modalities.vector.codec.seed",
        ),
        ("--model.modalities.vektor.codec.seed", "'vector'"),
        ("--modle", "--model"),
        ("--seed_evrything", "--seed_everything"),
    ],
)
def test_unknown_options_get_the_nearest_name(verb, typed, meant, recipe, mistake):
    assert f"did you mean {meant}" in mistake(verb, f"{typed}=1", "--config", recipe)


def test_what_lightning_offers_and_nothing_takes_is_not_offered(
    recipe, command, mistake
):
    names = options_of("fit", command)
    assert not {"--optimizer", "--lr_scheduler"} & {*names}
    for name in ("optimizer", "lr_scheduler"):
        assert f"no option --{name}" in mistake(
            "fit", "--config", recipe, f"--{name}=Adam"
        )


# Values.

FIT = """
--trainer.max_steps=a
--trainer.max_steps=1.5
--trainer.max_steps=
--trainer.max_steps
--trainer.max_steps=-5
--trainer.devices=0
--trainer.devices=-3
--trainer.devices=abc
--trainer.devices=99999
--trainer.devices=[0]
--trainer.num_nodes=0
--trainer.accelerator=gpu
--trainer.accelerator=cuda
--trainer.accelerator=tpu
--trainer.accelerator=foo
--trainer.strategy=foo
--trainer.strategy=fsdp
--trainer.precision=foo
--trainer.callbacks=NotAClass
--trainer.callbacks=lightning.pytorch.callbacks.NotAClass
--trainer.callbacks=EarlyStopping
--trainer.callbacks=torch.nn.Linear
--trainer.logger=foo
--trainer.logger=CSVLogger
--trainer.plugins=foo
--trainer.profiler=foo
--trainer.barebones=true
--trainer.max_time=foo
--trainer.fast_dev_run=a
--trainer.overfit_batches=a
--trainer.limit_val_batches=-3
--trainer.val_check_interval=0
--trainer.val_check_interval=-1
--trainer.accumulate_grad_batches=0
--trainer.log_every_n_steps=0
--trainer.gradient_clip_val=-1
--trainer.gradient_clip_val=a
--trainer.gradient_clip_algorithm=foo
--trainer.enable_progress_bar=foo
--trainer=3
--data.batch_size=a
--data.batch_size=0
--data.batch_size=-1
--data.seed=-1
--data.workers=-1
--data.manifests=3
--data.manifests={}
--data.device_resident=maybe
--data=foo
--model=foo
--model=flowbind.FlowBindd
--model=torch.nn.Linear
--model.modalities={}
--model.modalities.word=foo
--model.modalities.word.codec=foo
--model.drift=3
--model.drift.width=wide
--model.drift.width=0
--model.drift.width=-4
--model.head.depth=-1
--training.learning_rate=fast
--training.learning_rate=nan
--training.learning_rate=.nan
--training.learning_rate=-1
--training.learning_rate
--training.warmup_steps=-1
--training.decay=foo
--training.ema_decay=2
--model.bind=points
--model.objective.alpha=2
--model.objective.times=foo
--evaluation.sampling.steps=0
--evaluation.limit=a
--evaluation.sampling.solver=foo
--model.dict_kwargs.x=3
--seed_everything=-1
--seed_everything=foo
--seed_everything=99999999999
--ckpt_path=
--ckpt_path
--foo
--foo=3
-x
-trainer.max_steps=3
stray
--
"""
FIT_ALONE = """
--resume
--resume=maybe
--resume=
--checkpoints.every=0
--checkpoints.every=a
--checkpoints.keep=0
--checkpoints.minutes=0
--ckpt_path=none.ckpt
"""


def lines(text):
    return [line for line in text.splitlines() if line]


def some(cases, every):
    """Cases of which the quick tests take only some: each takes a tenth of a second."""
    return [
        case if i % every == 0 else pytest.param(case, marks=pytest.mark.slow)
        for i, case in enumerate(cases)
    ]


@pytest.mark.parametrize("option", some([*lines(FIT), *lines(FIT_ALONE)], every=5))
def test_mistakes_in_a_recipe_s_options(option, recipe, mistake):
    mistake("fit", "--config", recipe, option)


def test_a_codec_s_recipe_is_no_model_s(toys, mistake, tmp_path):
    (tmp_path / "codec.yaml").write_text(CODEC)
    assert "a ToyTraining has no latents to encode" in mistake(
        "encode", "--config", tmp_path / "codec.yaml"
    )
    given = [
        "--checkpoint=x",
        "--config=y",
        "--mean=word=m.npy",
        "--std=word=s.npy",
        "--out=o",
    ]
    assert "a ToyTraining has no modalities" in mistake(
        "import-official", *given, "--recipe", tmp_path / "codec.yaml"
    )


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["validate", "test", "encode"])
def test_the_same_mistakes_elsewhere(verb, recipe, mistake):
    for option in lines(FIT):
        if verb != "encode" or "ckpt" not in option:
            mistake(verb, option, "--config", recipe)


@pytest.mark.parametrize("verb", RECIPE_VERBS)
def test_mistakes_in_naming_a_recipe(verb, tmp_path, mistake):
    (tmp_path / "latin.yaml").write_bytes(b"model: caf\xe9\n")
    (tmp_path / "list.yaml").write_text("[1, 2]\n")
    (tmp_path / "empty.yaml").write_text("")
    assert "--config" in mistake(verb)
    assert "--config" in mistake(verb, "--trainer.max_steps=3")
    assert "--config" in mistake(verb, "--config")
    assert "--config" in mistake(verb, "--config=")
    assert "--config" in mistake(verb, tmp_path / "list.yaml")
    for name in ("none.yaml", "latin.yaml", "list.yaml", "empty.yaml", ""):
        assert str(tmp_path / name) in mistake(verb, "--config", tmp_path / name)


def test_a_caption_may_be_longer_than_any_path(mistake):
    words = f"text={'a large red torus ' * 20}"
    said = mistake("generate", "nowhere", "--from", words, "--to", "x", "--out", "y")
    assert "nowhere: no such folder" in said


def test_what_is_said_of_a_value_says_what_is_allowed(recipe, mistake):
    def told(option):
        return mistake("fit", "--config", recipe, option)

    assert "data.batch_size: 'a' is not allowed; allowed: a whole number" in told(
        "--data.batch_size=a"
    )
    assert "allowed: 64, 32, 16, transformer-engine" in told("--trainer.precision=foo")
    assert "it has cpu" in told("--trainer.accelerator=tpu")
    assert "did you mean 'simple'?" in told("--trainer.profiler=simpel")
    # And nothing of how classes may be given, which is all right.
    metric = "{class_path: torchmetrics, init_args: {metric: accuracy, judges: word}}"
    said = told(f"--evaluation.metrics=[{metric}]")
    assert said.rstrip().endswith("MeanSquaredError, not 'accuracy'"), said
    # Longer than any path.
    assert "data.batch_size: 'a" in told(f"--data.batch_size={'a' * 300}")
    assert "did you mean 'vector'?" in told("--model.modalities.word=vectr")
    assert "did you mean 'FlowBind'?" in told("--model=flowbind.FlowBnid")
    assert "--model.modalities.word.codec has no class yet" in told(
        "--model.modalities.word.codec.seed=3"
    )
    assert "--trainer.logger has no class yet" in told("--trainer.logger.save_dir=logs")
    # What a method says of itself, and nothing of other classes that a model may have.
    said = told("--model.modalities.word.codec=digit-grid")
    assert said.rstrip().endswith("choose codecs of equal width"), said
    assert (
        "model: torch.nn.Linear is not allowed; allowed: Method, LightningModule"
        in (told("--model=torch.nn.Linear"))
    )


class AbsentLogger(CSVLogger):
    """A logger whose package is not there, as Lightning's say it."""

    def __init__(self) -> None:
        raise ModuleNotFoundError(
            "Requirement 'nowhere>=1' not met. HINT: Try running `pip install -U 'nowhere>=1'`"
        )


def test_a_logger_that_is_not_installed_says_what_to_install(recipe, mistake):
    line = mistake(
        "fit", "--config", recipe, f"--trainer.logger={__name__}.AbsentLogger"
    )
    assert (
        "AbsentLogger needs 'nowhere>=1', which is not installed: pip install 'nowhere>=1'"
        in line
    )


GENERATE = """
--seed -1
--seed a
--seed
--steps 0
--steps 1.5
--source-steps 0
--method foo
--variety nan
--variety -1
--variety a
--batch 0
--batch -3
--device cuda:99
--device gpu
--device foo
--device meta
--device=
--stpes 3
--to vectro
--to=
--from word
--from =3
--from word=
--from wrod=123
--from vector=none.vec
--from vector=none/*.vec
--from word=@none.csv
--from word=none.word
--out=
stray
"""


@pytest.fixture
def model(tmp_path, toys):
    return release(tmp_path / "model", word=Word(), vector=Vector())


@pytest.mark.parametrize("options", lines(GENERATE))
def test_mistakes_of_generate(options, model, mistake, tmp_path):
    given = ["--from", "word=123", "--to", "vector", "--out", tmp_path / "out"]
    given = given[:-2] if options == "--out=" else given
    mistake("generate", model, *given, *options.split(" "))


def test_mistakes_in_the_folders_of_generate(model, mistake, tmp_path):
    (tmp_path / "taken").write_text("a file")
    given = ["--from", "word=123", "--to", "vector", "--out"]
    assert "taken: a file, where a folder is needed" in mistake(
        "generate", model, *given, tmp_path / "taken"
    )
    assert "taken: a file, where a folder is needed" in mistake(
        "generate", model, *given, tmp_path / "taken/sub"
    )
    assert "no such folder" in mistake(
        "generate", tmp_path / "none", *given, tmp_path / "out"
    )
    assert "required: model" in mistake("generate", *given, tmp_path / "out")
    assert "required: --out" in mistake("generate", model, *given[:-1])


OTHERS = """
encode --skip-bad -1
encode --skip-bad many
encode --skip-bad
encode --workers -1
encode --split trian
encode --split
prepare folder
prepare folder --source
prepare folder --source=
prepare folder --source none
prepare folder --source . --val a
prepare folder --source . --val nan
prepare folder --source . --val 2
prepare folder --source . --seed -1
prepare folder --source . --seed a
prepare folder --source . --labels none.csv
prepare folder --source . --soruce .
prepare folder --source . stray
prepare shapes --samples 0
prepare shapes --samples a
prepare shapes --test-samples 0
prepare shapes --seed -1
prepare shapes --modalities text+imgae
prepare fodler
prepare --out
prepare join
verify
verify none
verify .
verify --all
modalities --all
modalities stray
import-official
import-official --checkpoint none --config none --mean x --std y
predict
fitt
--foo
"""


@pytest.mark.parametrize("line", lines(OTHERS))
def test_mistakes_of_the_other_verbs(line, recipe, mistake, tmp_path, monkeypatch):
    (tmp_path / "files").mkdir()
    monkeypatch.chdir(tmp_path / "files")
    verb, *options = line.split(" ")
    given = {
        "encode": ["--config", recipe],
        "prepare": ["--out", tmp_path / "out"],
        "import-official": ["--out", "x"],
    }
    mistake(verb, *options, *given.get(verb, []))


# How it ends.


def test_the_table_of_exit_codes_is_the_code(command, recipe, monkeypatch):
    ends = {
        0: None,
        1: RuntimeError("broken"),
        2: ValueError("wrong"),
        129: KeyboardInterrupt(signal.SIGHUP),
        130: KeyboardInterrupt(),
        138: KeyboardInterrupt(signal.SIGUSR1),
        143: KeyboardInterrupt(signal.SIGTERM),
    }
    for code, error in ends.items():

        def run(verb, arguments, error=error):
            if error:
                raise error

        monkeypatch.setattr("flowbind.cli.plugins.run", run)
        ended, _, err = command("plugins")
        assert ended == code
        assert ("Traceback" in err) == (code == 1)
        assert ("please report it" in err) == (code == 1)
        assert len(err.strip().splitlines()) == 1 or code in (0, 1)
    table = (ROOT / "docs/command-line.md").read_text()
    assert [
        int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)
    ] == sorted([*ends, 141])


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left", "a.txt"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_what_a_machine_lacks_is_one_line(error, command, monkeypatch):
    def run(verb, arguments):
        raise error

    monkeypatch.setattr("flowbind.cli.plugins.run", run)
    code, _, err = command("plugins")
    assert (code, len(err.strip().splitlines())) == (2, 1)


@pytest.mark.parametrize("rank", flowbind.progress.RANKS)
def test_of_several_processes_the_first_tells_what_is_wrong(rank, command, monkeypatch):
    """The others only if it is still there a while later, for then it has found nothing."""
    monkeypatch.setattr("flowbind.cli.PATIENCE", 2)
    monkeypatch.setenv(rank, "1")
    code, _, err = command("verify", "none")
    assert (code, len(err.splitlines())) == (2, 1)
    monkeypatch.setattr("os.getppid", lambda: 1)
    assert command("verify", "none") == (2, "", "")
    monkeypatch.setenv(rank, "0")
    code, _, err = command("verify", "none")
    assert (code, len(err.splitlines())) == (2, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "option",
    [
        "--data.batch_size=0",
        "--data.weights={word: 1}",
        "--model.bind=[word]",
        "--trainer.max_step=3",
        "--data.store=none",
    ],
)
def test_several_processes_say_one_line(option, tmp_path, toys, command):
    recipe = make_world(tmp_path, command, samples=64, steps=4)
    done = flowbind_process(
        tmp_path, "fit", "--config", recipe, "--trainer.devices=2", option
    )
    assert done.returncode == 2, done.stderr
    assert (
        len(
            [line for line in done.stderr.splitlines() if line.startswith("flowbind: ")]
        )
        == 1
    ), done.stderr
    assert "Traceback" not in done.stderr


def raised_in(*modules):
    """A RuntimeError that came through these modules, the last raising it."""
    source = "def call(inner):\n    if inner is None:\n        raise RuntimeError('no such metric')\n    inner()"
    inner = None
    for module in reversed(modules):
        names = {"__name__": module}
        exec(source, names)
        inner = partial(names["call"], inner)
    with pytest.raises(RuntimeError) as error:
        inner()
    return error.value


@pytest.mark.parametrize(
    ("modules", "is_a_mistake"),
    [
        (
            [
                "flowbind.cli.recipe",
                "lightning.pytorch.trainer",
                "lightning.pytorch.callbacks.early_stopping",
            ],
            True,
        ),
        (["flowbind.cli.recipe", "lightning.pytorch.loggers.wandb", "os"], True),
        (["flowbind.cli.recipe", "lightning.fabric.plugins.environments.slurm"], True),
        (
            [
                "flowbind.cli.recipe",
                "lightning.pytorch.trainer",
                "flowbind.train.training",
                "torch.nn",
            ],
            False,
        ),
        (
            [
                "flowbind.cli.recipe",
                "lightning.pytorch.callbacks.callback",
                "flowbind.train.callbacks",
            ],
            False,
        ),
        (["flowbind.cli.recipe", "lightning.pytorch.trainer.call"], False),
    ],
)
def test_what_a_part_that_the_recipe_chose_raises_is_a_mistake(modules, is_a_mistake):
    part = chosen_part(raised_in(*modules))
    assert (part is not None) == is_a_mistake
    if part:
        assert part.startswith("lightning.")


def test_a_reader_who_leaves_ends_it_quietly():
    code = "import os, time; from flowbind.cli import main; time.sleep(0.3); main(['plugins'])"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.close()
        err = process.stderr.read()
    assert (process.returncode, err) == (141, b"")


@pytest.mark.parametrize(
    "arguments",
    [
        ["fit"],
        ["fit", "recipe.yaml"],
        ["fit", "--config"],
        ["encode", "--help"],
        ["generate", "--help"],
        ["generate", "model", "--sed", "3"],
        ["verify", "--all"],
        ["predict"],
    ],
    ids=" ".join,
)
def test_help_and_mistakes_of_our_own_import_nothing_heavy(arguments):
    code, modules = imported_by(*arguments)
    assert code in (0, 2)  # no traceback
    assert not modules & {"torch", "lightning", "jsonargparse", "numpy"}


def test_print_config_and_help_need_nothing_else(command, recipe):
    assert command("fit", "--help")[0] == 0
    assert command("fit", "--model.help", "flowbind.FlowBind")[0] == 0
    code, out, err = command(
        "fit", "--trainer.max_steps=3", "--config", recipe, "--print_config"
    )
    assert (code, err) == (0, "")
    assert yaml.safe_load(out)["trainer"]["max_steps"] == 3
