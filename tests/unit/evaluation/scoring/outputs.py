"""Small records of every known format, and files of them."""

import json

RULER = {"index": 0, "task": "qa_1", "ctx": 4096, "outputs": ["Paris"], "pred": "In Paris."}
LONGBENCH = {
    "_id": "a",
    "difficulty": "easy",
    "answer": "B",
    "response": "The correct answer is (B)",
}
LONGREASON = {"id": "a", "split": "32k", "answer": "B", "response": "<answer>B. Oslo</answer>"}
SAMPLE = {
    "prompt_id": "p",
    "response_text": "<useful_chunks><CHUNK_0></useful_chunks><answer>Paris</answer>",
    "reference_answers": ["Paris"],
    "evidence_chunk_ids": [0, 1],
    "reward_parts": {"answer": 1.0},
}


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path
