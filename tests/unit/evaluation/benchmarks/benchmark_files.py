"""Files in the formats of SQuAD, HotpotQA, LongBench v2 and LongReason, made by hand."""

import json

CITIES = ["Paris", "Rome", "Oslo", "Bern", "Lima", "Cairo"]


def save_json(path, content):
    path.write_text(json.dumps(content))
    return path


def squad():
    """Two articles of three paragraphs; each paragraph has one answerable question."""

    def paragraph(city):
        answerable = {"question": f"Where is {city}?", "answers": [{"text": f"land of {city}"}]}
        impossible = {"question": "Why?", "answers": [], "is_impossible": True}
        context = f"The city {city} lies in the land of {city}."
        return {"context": context, "qas": [impossible, answerable]}

    articles = [CITIES[:3], CITIES[3:]]
    return {"data": [{"paragraphs": [paragraph(city) for city in part]} for part in articles]}


def hotpot():
    """Two questions of two documents each, one of them the evidence."""
    return [
        {
            "question": f"Where is {a}?",
            "answer": f"land of {a}",
            "context": [[a, [f"{a} lies in ", f"the land of {a}."]], [b, [f"{b} is elsewhere."]]],
            "supporting_facts": [[a, 0], [a, 1]],
        }
        for a, b in (CITIES[:2], CITIES[2:4])
    ]


def longbench(**changes):
    return {
        "_id": "x1",
        "domain": "Single-Document QA",
        "sub_domain": "Literary",
        "difficulty": "easy",
        "length": "short",
        "question": "Which city?",
        **{f"choice_{letter}": city for letter, city in zip("ABCD", CITIES, strict=False)},
        "answer": "B",
        "context": "Once upon a time. " * 40,
        **changes,
    }


def longreason(**changes):
    return {
        "example_idx": "r1",
        "background": "Once upon a time.",
        "final_inquiry": "Which?\nA. x\nB. y",
        "answer": "B",
        **changes,
    }
