"""Records what the reference implementations make of fixed inputs, for test_duplicates and test_selfinstruct.

    pip install datasketch==2.0.0 rouge-score==0.1.2
    python tests/data/record_curation.py FOLDER

FOLDER holds bootstrap_instructions.py and prepare_for_finetuning.py of github.com/yizhongw/self-instruct at 10dd06e.
The inputs are ours, and drawn by seed.
"""

import json
import random
import sys
import types
from pathlib import Path

OUT = Path(__file__).with_name("curation_reference.json")

LISTS = [
    " Translate the sentence into French.\n10. Draw a cat on a mat.\n11. Say whether the customer is angry.",
    " write a poem about the sea\n2 . Why is the sky blue?\n3. too short\n4.  Explain   how a loan\tworks. ",
    "Write a program that sorts numbers.\n12. Write a Program in Python to add.\n13. Write a programme for a concert.",
    " \"Quote\" this sentence for me please.\n3. Écris une lettre à ma banque.\n4. (a) Name a city in Spain.",
    " Upload the files to the server now.\n10. Go to the shop and buy milk.\n11. Mapping words to numbers is the task.",
    " " + "word " * 149 + "\n10. " + "word " * 150 + "\n11. " + "word " * 151,
    "List three 10. fruits that are red.\n7. A graph-like structure is what?\n8. Photograph the picturesque town.",
    "", "\n\n", " Name the capital of Peru.", " Summarise it in one line:\n10. Is 7 a prime number? Answer yes or no.",
]
GENERATED = [
    "Input: 2, 3\nOutput: 5", "Output: Paris", "Example 1\nInput: a\nOutput: b\n\nExample 2\nInput: c\nOutput: d",
    "Example 1\nInput: a\nOutput: b\nExample 2\nInput: a\nOutput: c",
    "Example 1\nOutput: one\nExample 2\nOutput: two", "no marker at all", "Input: x\nOutput: x", "Input: x\nOutput:",
    "Input: the list is:\nOutput: 3", "Input: 1\nOutput: here it is:", "Example 1.\nInput 1: a\nOutput 1: b",
    "Input: a\nOutput: b\nInput: c\nOutput: d", "Example 1\nInput: a\nOutput: b\nExample 2\nInput: a\nOutput: b",
    "Input: For Example, this\nOutput: that", "A sentence first.\nOutput : 4", "Example1 Input:q Output:r",
    "Example 1\nInput: Input: nested\nOutput: fine\n\nExample 2\njust text without a marker",
]
LABELLED = [
    "Class label: Positive\nI like it.\n\nClass label: Negative\nI do not.", "Class label: Yes", "nothing",
    "Class label: A\nsame\nClass label: B\nsame", "Class label: A\nsame\nClass label: A\nsame",
    "Class label:\nempty label", "Class label: A:\nends with a colon", "Class label: A\nSentence: two\nlines\n",
    "before Class label:  spaced  \n  input  \n", "Class label: x\nx",
]
SAID = [
    "Give me three tips for staying healthy.", "Give me five tips for staying healthy in winter.",
    "List three tips to stay healthy!", "Translate the sentence into French.", "Translate this sentence to French",
    "What's 2+2?", "what s 2 2", "Explain how an interest-only loan works, step by step.",
    "Explain step by step how a loan works.", "", "...", "snake_case and CamelCase words", "Écris une lettre",
]


def documents(count=120, seed=3):
    """Hashes of shingles: families of sets that share more or less of one core."""
    draw = random.Random(seed)
    found = []
    for _ in range(count // 6):
        core = [draw.randrange(2**32) for _ in range(draw.randint(8, 60))]
        for share in (1.0, 0.95, 0.9, 0.8, 0.6, 0.3):
            kept = draw.sample(core, max(1, round(share * len(core))))
            found.append(sorted({*kept, *(draw.randrange(2**32) for _ in range(len(core) - len(kept)))}))
    return found


def main(folder):
    from datasketch import MinHash, MinHashLSH
    from rouge_score import rouge_scorer

    for name in ("gpt3_api", "tqdm", "pandas"):
        sys.modules.setdefault(name, types.SimpleNamespace(make_requests=None))
    sys.path.insert(0, folder)
    import bootstrap_instructions as boot
    import prepare_for_finetuning as prepare

    sets = documents()
    signed = []
    for found in sets:
        m = MinHash(num_perm=128, seed=1, hashfunc=int)
        m.update_batch(found)
        signed.append(m)
    candidates = {}
    for b, r in ((21, 6), (42, 3)):
        index = MinHashLSH(num_perm=128, params=(b, r))
        for n, m in enumerate(signed):
            index.insert(str(n), m)
        candidates[f"{b}x{r}"] = sorted([i, n] for n, m in enumerate(signed) for i in map(int, index.query(m)) if i < n)
    rouge = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    answered = {"response": {"choices": [{"finish_reason": "stop"}]}}
    cut = {"response": {"choices": [{"finish_reason": "length"}]}}
    OUT.write_text(json.dumps({
        "sets": sets, "signatures": [[int(x) for x in m.hashvalues] for m in signed[:8]], "candidates": candidates,
        "said": SAID, "rouge": [[rouge.score(a, b)["rougeL"].fmeasure for b in SAID] for a in SAID],
        "lists": [[text, boot.post_process_gpt3_response({"choices": [{"text": text, "finish_reason": "stop"}]})]
                  for text in LISTS],
        "generated": [[text, *(sorted(i[1:] for i in prepare.parse_instances_for_generation_task(text, "t", how))
                               for how in (answered, cut))] for text in GENERATED],
        "labelled": [[text, *(sorted(i[1:] for i in prepare.parse_instances_for_classification_task(text, "t", how))
                              for how in (answered, cut))] for text in LABELLED]}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
