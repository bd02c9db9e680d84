"""Mathematics of tensors: pure functions, torch only, nothing of ours imported.

The legend of the whole package; a tensor carries its shape as a suffix (`logprobs_BT`, `rewards_A`):

    B rows (one answer with its prompt)     T tokens of a row, padded        N answer tokens, flat
    G groups (prompts)                      K answers of one prompt          A answers, flat over groups
    P pairs                                 D width                          V vocabulary      H heads

Masks are decided before a loss is called: a loss never finds out for itself which token counts. Its `count` is
the number of items of the whole optimizer step, so that micro-batches and ranks add up to the same gradient.
"""
