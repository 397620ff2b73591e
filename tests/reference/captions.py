"""Writes captions.json: captions, what others' tokeniser makes of them, and the scores that others give them.

Others are the code of the COCO caption evaluation, as pycocoevalcap 1.2 has it; it needs Java for its tokeniser. In an
environment of its own, for it asks for other packages than flowbind does:

    python -m venv /tmp/others && /tmp/others/bin/pip install pycocoevalcap==1.2
    /tmp/others/bin/python tests/reference/captions.py tests/reference/captions.json
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

SAMPLES = 200
REFERENCES = (3, 4, 5, 5, 5, 6)  # how many a sample has
SCENES = [
    (
        [
            "a dog",
            "the small brown dog",
            "a hound",
            "Mr. Miller's dog",
            "a black-and-white dog",
        ],
        [
            "barks",
            "is barking",
            "howls",
            "won't stop barking",
            "barks and doesn't stop",
        ],
    ),
    (
        [
            "a train",
            "an old U.S. train",
            "the 10:30 train",
            "a freight train",
            "a train's horn",
        ],
        ["passes", "is rolling by", "blows", "can't be seen", "goes by at 3.5 m/s"],
    ),
    (
        [
            "a man",
            "an old man",
            "the man (in a red hat)",
            "a 60-year-old man",
            "someone's grandfather",
        ],
        [
            "speaks",
            "is talking",
            'says "hello"',
            "cannot be heard",
            "tells them he'd rather wait",
        ],
    ),
    (
        [
            "two women",
            "2 women",
            "some women",
            "the women's group",
            "a couple of women",
        ],
        [
            "laugh",
            "are laughing",
            "giggle",
            "they're laughing out loud",
            "laugh; then they sing",
        ],
    ),
    (
        ["rain", "heavy rain", "the rain", "50% of the rain", "rain & wind"],
        [
            "falls",
            "is pouring down",
            "drips on a roof",
            "isn't over yet",
            "falls, and falls... and falls",
        ],
    ),
    (
        [
            "a café",
            "the café’s door",
            "a crowded coffee shop",
            "a bar & café",
            "the café of 1,000 cups",
        ],
        ["is loud", "hums", "isn’t empty", "is full of “regulars”", "closes at 5 p.m."],
    ),
    (
        [
            "a boy",
            "the little boy",
            "a boy in a t-shirt",
            "a child",
            "a kid that's gonna be late",
        ],
        [
            "rides a bike",
            "is riding his bicycle",
            "cycles",
            "rides -- no hands!",
            "goes for a ride; it's fun",
        ],
    ),
    (
        [
            "an engine",
            "a car engine",
            "the motor",
            "a V8 engine",
            "the engine of a $500 car",
        ],
        ["idles", "is running", "starts and stops", "revs up: loudly", "won't start"],
    ),
]
PLACES = [
    "in the park",
    "on a street",
    "near the water",
    "in front of a house",
    "by the road",
    "on Main St. in town",
    "at night",
    "while birds chirp",
    "as people walk by",
    "in the distance",
    "",
]
ENDS = [".", "", " .", "!", "...", ". People talk.", ". It's windy."]

ODD = [
    "It's raining; they don't care.",
    "The dogs' bowl (red) isn't \"full\"...",
    "a black-and-white photo of 1,000 birds at 3.5 km",
    "50% of R&D costs $5, or #3 @ 10:30",
    "Mr. Smith of the U.S. arrives at 10 a.m. on Main St. with Dr. Who",
    "He cannot and can't and won't and shouldn't've",
    "They're gonna wanna gotta lemme go",
    "A dog runs. A cat sleeps.",
    "A man's hat, the 1990s, a 3-year-old, a 2nd one, 1/2 cup",
    "red/white and/or blue -- a flag - waving",
    "“curly” ‘single’ quotes and 'straight' ones",
    "Grüne ÄPFEL, café, naïve, 東京",
    'a t-shirt that says "STOP!" [brackets] {braces}',
    "a © sign ° + = * ^ ~ | /",
    "it 's already tokenized and do n't",
    "o'clock 'til 'em ma'am",
    "a . b , c ? d ! e : f ; g - h -- i ... j … k – l — m",
    "5:30pm 5pm 10am 3d 4x4 100m 20km/h 1.5l",
    "e.g. this, i.e. that, etc.",
    "www.example.com file.txt",
    "hello_world under_score",
    "it'd've they'll I'm we've",
    "one-two--three wait... what?! no!!",
    "I'd say so, c'mon",
    "don’t it’s dogs’ can’t",
    "wo n't ca n't",
    "$1,000.50 -5 +3 1e5 .5",
    "A.B.C. U.K. Ph.D. vs. Jr.",
    "2 x 4 = 8; 10 % off",
    "the 'best' of the '90s",
    "women's and men's and James' clothes",
    "a close-up; 35mm",
    "«guillemets» and „low” quotes",
    "the man ( in black ) is 6'2\" tall",
    "a 24/7 diner, 9-to-5",
    "Mrs. and Ms. Jones vs. the St. Louis Inc. team",
    "cats & dogs",
    "he said: 'stop!' and left",
    "Ready?Go!",
    "50 ft. of rope, 3 in. wide",
    "Vol. 2, No. 7",
    "an airplane's take-off ... then silence",
    "a/c unit w/o power",
    "T.V. tv TV's",
    "rock 'n' roll",
    "good-looking, well-dressed, ready-to-go",
    "It costs 5€ or ¢5",
    "x-ray, e-mail, re-enter",
    "dog,cat,bird",
    "1st, 2nd, 3rd, 4th",
    "Wait...what",
    "10,000-seat arena",
    "'tis the season, 'twas night",
    'a man says, "I don\'t know."',
    "barks.Then it stops",
    "a dog runs ,then stops",
    "the u.s navy",
    "a man's voice.People talk",
    "water;fire",
    "10pm-11pm 3-4 people",
    "the dog barks!The cat",
    "two-story,red house",
    "St.Louis",
    'a "U.S." flag',
    "no.5 No.",
    "approx. 5 oz. of",
    "it is 5 a.m.",
    "5 a.m.",
    "It's 20°C or 68°F outside",
    "#hashtag @user",
    "3,000 people; 5:00 PM",
    "a mid-1900s style, '80s-style",
    "yes/no. Left/right?",
    "'Hello there', says he",
    "don't-care attitude",
    "the children's', its'",
    "1.2.3 version",
    'a "man" -- "woman"',
    "a b- c -d e-",
    "the end.)",
    "hello?) \"what?\" 'why?'",
    "(a)(b) [c]{d}",
    "100% sure, 100%-sure",
    "mother-in-law's house",
    "o' the d'Artagnan l'eau O'Neil",
    "people 's talk , s ' end",
    "he's'll",
    "café's crème-brûlée",
    "A 'B' c'",
    "sirens' sound",
]


class Draw:
    """A generator of numbers that is the same everywhere."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def __call__(self, count: int) -> int:
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 33) % count

    def of(self, entries):
        return entries[self(len(entries))]


def caption(draw: Draw, scene: int) -> str:
    """A caption of a scene."""
    who, what = SCENES[scene]
    text = f"{draw.of(who)} {draw.of(what)} {draw.of(PLACES)}".strip() + draw.of(ENDS)
    return text[0].upper() + text[1:] if draw(2) else text


def captions() -> list[dict]:
    """What was generated for each sample, one time in eight of another scene, and its references."""
    draw = Draw(seed=1)
    samples = []
    for _ in range(SAMPLES):
        scene = draw(len(SCENES))
        references = [caption(draw, scene) for _ in range(draw.of(REFERENCES))]
        samples.append(
            {
                "made": caption(draw, scene if draw(8) else draw(len(SCENES))),
                "references": references,
            }
        )
    return samples


def scores(made: dict, references: dict) -> dict[str, float]:
    """The figures of the COCO caption evaluation."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    bleu, _ = Bleu(4).compute_score(references, made, verbose=0)
    return {
        "cider": float(Cider().compute_score(references, made)[0]),
        **{f"bleu-{n}": score for n, score in enumerate(bleu, start=1)},
        "rouge-l": float(Rouge().compute_score(references, made)[0]),
    }


def main(path: Path) -> None:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    samples = captions()
    tokenise = PTBTokenizer().tokenize
    made = tokenise(
        {number: [{"caption": s["made"]}] for number, s in enumerate(samples)}
    )
    several = tokenise(
        {
            number: [{"caption": text} for text in s["references"]]
            for number, s in enumerate(samples)
        }
    )
    first = {number: texts[:1] for number, texts in several.items()}
    odd = tokenise({number: [{"caption": text}] for number, text in enumerate(ODD)})
    content = {
        "by": f"pycocoevalcap {version('pycocoevalcap')}, by tests/reference/captions.py",
        "one reference": scores(made, first),
        "all references": scores(made, several),
        "tokens": {text: odd[number][0] for number, text in enumerate(ODD)},
        "samples": samples,
    }
    path.write_text(
        json.dumps(content, indent=0, ensure_ascii=False) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
