"""The details that make or break PPO, numbered as in the list the project was built from, and where each is tested.

A line maps to tests (`folder/file::name`); a comment says where the design has no place for the mistake.
"""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

LINES: dict[int, tuple[str, ...]] = {
    1: ("model/test_engine::test_recorded_logprobs_equal_a_fresh_forward_pass",     # the engine left-pads
        "model/test_engine::test_a_left_padded_prompt_gives_the_logprobs_of_the_unpadded_one",
        "model/test_batch::test_hidden_states_and_logits_equal_unpadded_rows",      # training pads right or not at all
        "model/test_batch::test_gpt2_positions_of_padded_rows_start_at_zero"),
    2: ("model/test_base_pad::test_pad_is_never_eos_and_the_embedding_keeps_its_size",
        "model/test_chat::test_learned_tokens_are_the_assistant_turns_with_their_end"),
    3: ("model/test_chat::test_there_is_exactly_one_bos_where_the_model_wants_one",
        "model/test_chat::test_a_prompt_is_an_exact_prefix_of_the_conversation"),
    4: ("model/test_chat::test_nothing_to_learn_is_an_error",
        "model/test_chat::test_weights_of_messages_become_weights_of_tokens"),
    5: ("train/test_sft::test_encode_counts_what_it_leaves_out",
        "train/test_reward::test_encode_counts_what_it_leaves_out",
        "train/test_ppo::test_roles_of_another_base_and_prompts_without_room_are_refused"),
    6: ("model/test_heads::test_a_head_starts_as_stiennon_et_al_did",
        "model/test_heads::test_the_score_is_read_at_the_last_token"),
    7: ("model/test_heads::test_a_score_does_not_depend_on_batch_mates_order_layout_or_budget",),
    8: ("model/test_heads::test_normalize_gives_mean_0_and_std_1_and_keeps_the_order",
        "train/test_reward::test_scores_are_normalised_over_the_training_answers_and_stored"),
    9: ("ops/test_op_losses::test_kway_loss_is_the_mean_over_its_pairs",
        "train/test_reward::test_the_loss_is_the_mean_over_prompts_of_the_mean_over_pairs",
        "train/test_reward::test_every_completion_is_computed_once"),
    10: ("ops/test_op_losses::test_shapes_of_margins_probabilities_and_weights_must_agree",),
    11: ("model/test_adapters::test_a_new_process_gets_bit_equal_scores_and_hidden_states",
         "train/test_reward::test_the_head_is_trained_and_one_epoch_is_the_default"),
    12: ("train/test_reward::test_the_head_is_trained_and_one_epoch_is_the_default",),
    13: ("model/test_base_pad::test_dropout_is_off_and_the_base_frozen",
         "model/test_adapters::test_dropout_of_a_foreign_adapter_stays_off"),
    14: ("train/test_ppo::test_rollout_tables_equal_plain_forward_passes",
         "train/test_ppo::test_without_learning_the_ratio_is_one_in_every_epoch",
         "model/test_engine::test_sampling_frequencies_match_the_softmax",
         "train/test_checklist::test_ppo_samples_from_the_whole_distribution"),
    15: ("ops/test_op_advantages::test_longer_padding_gives_the_same_advantages",
         "ops/test_op_advantages::test_padding_content_never_matters"),
    # The sampler and the learner hold one and the same adapter in memory, so there is no second hash to compare.
    16: ("model/test_engine::test_recorded_logprobs_equal_a_fresh_forward_pass",
         "train/test_ppo::test_rollout_tables_equal_plain_forward_passes"),
    17: ("ops/test_op_advantages::test_rewards_are_the_price_of_kl_and_the_score_at_the_last_token",
         "train/test_ppo::test_credit_by_hand"),
    18: ("train/test_ppo::test_the_reference_is_the_starting_adapter_not_the_raw_base",
         "model/test_adapters::test_adapters_off_equal_the_base_exactly"),
    19: ("ops/test_op_advantages::test_estimators_have_their_defining_values",
         "ops/test_op_advantages::test_k1_and_k3_are_unbiased_and_k3_is_never_negative",
         "ops/test_op_advantages::test_as_losses_k1_has_no_gradient_k2_the_right_one_and_k3_a_biased_one"),
    20: ("train/test_by_hand::test_a_whole_update_equals_the_document",  # PPO's losses hold no KL term
         "train/test_ppo::test_credit_by_hand",
         "train/test_grpo::test_kl_is_charged_in_the_reward_or_in_the_loss_never_in_both"),
    21: ("ops/test_op_advantages::test_adaptive_controller_moves_by_the_clipped_error_per_answer",
         "train/test_ppo::test_the_controller_moves_with_the_measured_kl"),
    22: ("train/test_ppo::test_rules_for_answers_without_an_end", "train/test_ppo::test_credit_by_hand"),
    23: ("ops/test_op_advantages::test_normalize_by_hand_with_and_without_the_mean",
         "train/test_ppo::test_credit_by_hand"),
    # Rewards are not clipped: reward models are normalised instead (line 8). There are no tool tokens in an answer yet.
    24: ("ops/test_op_advantages::test_gae_equals_the_hand_computed_case",
         "ops/test_op_advantages::test_lambda_one_gives_discounted_returns_and_lambda_zero_one_step_errors"),
    25: ("train/test_ppo::test_credit_by_hand",  # before any minibatch or micro-batch exists; one rank in this edition
         "train/test_ppo::test_micro_batches_and_layouts_give_the_gradient_of_the_minibatch"),
    26: ("ops/test_op_advantages::test_returns_are_advantages_before_whitening_plus_values",),
    27: ("train/test_ppo::test_the_value_starts_from_the_reward_model_or_at_zero_on_the_trunk",
         "train/test_ppo::test_a_value_on_the_trunk_leaves_the_policy_alone_unless_asked"),
    28: ("ops/test_op_losses::test_value_loss_by_hand", "ops/test_op_losses::test_values_behind_the_end_are_masked"),
    29: ("train/test_ppo::test_without_learning_the_ratio_is_one_in_every_epoch",),
    30: ("train/test_ppo::test_optimizer_steps_are_counted",
         "train/test_sft::test_training_learns_counts_its_steps_and_reports_the_skipped"),
    31: ("train/test_learner::test_the_gradient_is_clipped_to_the_limit_and_only_beyond_it",
         "train/test_ppo::test_clipped_gradients_reach_the_optimizers"),
    32: ("ops/test_op_losses::test_micro_batches_add_up_to_the_gradient_of_the_whole",
         "train/test_sft::test_micro_batches_and_layouts_give_the_gradient_of_one_big_batch",
         "train/test_reward::test_micro_batches_give_the_gradient_of_one_big_batch",
         "train/test_ppo::test_micro_batches_and_layouts_give_the_gradient_of_the_minibatch"),
    33: ("ops/test_op_losses::test_masked_positions_cannot_poison_value_or_gradient",
         "ops/test_op_advantages::test_padding_content_never_matters"),
    34: ("ops/test_op_losses::test_policy_metrics_average_over_valid_tokens_only",
         "ops/test_op_logprobs::test_entropy_is_that_of_the_tempered_distribution",
         "train/test_ppo::test_a_ratio_beyond_the_limit_ends_the_passes_and_applies_nothing",
         "train/test_ppo::test_a_monitor_or_too_much_kl_stops_and_what_was_learned_is_published"),
    35: ("train/test_sft::test_the_same_seed_gives_the_same_adapter_bit_for_bit",
         "train/test_reward::test_the_same_seed_gives_the_same_reward_model_bit_for_bit",
         "train/test_ppo::test_the_same_seed_gives_the_same_policy_bit_for_bit"),
    36: ("train/test_ppo::test_ptx_adds_the_gradient_of_the_demonstrations",),
    37: ("model/test_batch::test_hidden_states_and_logits_equal_unpadded_rows",
         "model/test_batch::test_gradients_equal_those_of_unpadded_rows",
         "model/test_batch::test_changing_one_answer_leaves_siblings_and_other_prompts_bit_for_bit"),
    38: ("train/test_resume::test_stopped_and_resumed_equals_uninterrupted_bit_for_bit",
         "train/test_resume::test_before_the_first_and_after_the_last_step",
         "train/test_learner::test_data_order_is_a_function_of_the_position"),
    39: ("train/test_resume::test_a_damaged_checkpoint_is_passed_over_and_the_result_is_the_same",
         "train/test_resume::test_a_checkpoint_without_moments_is_an_error"),
    40: ("train/test_ppo::test_a_countable_reward_rises_and_kl_holds_it_back",
         "train/test_ppo::test_the_learned_reward_rises_too",
         "train/test_reward::test_noisy_labelers_bound_the_accuracy_and_it_is_reached"),
    41: ("train/test_dpo::test_at_the_start_the_loss_is_ln_2_and_every_margin_0",
         "train/test_dpo::test_a_tied_pair_teaches_nothing_at_the_start_and_pulls_together_later",
         "train/test_dpo::test_implicit_rewards_read_answer_tokens_only",
         "ops/test_op_preferences::test_equal_rewards_are_half_right_and_tied_labels_are_left_out"),
    42: ("train/test_grpo::test_advantages_sum_to_zero_in_every_group_and_alike_answers_get_none",
         "train/test_grpo::test_groups_without_variance_give_no_gradient_and_are_not_computed",
         "train/test_grpo::test_dr_grpo_divides_by_neither_deviation_nor_length",
         "ops/test_op_advantages::test_group_advantages_by_hand_sum_to_zero"),
}


def test_every_line_has_a_test():
    assert list(LINES) == list(range(1, 43)) and all(LINES.values())


@pytest.mark.parametrize("line", list(LINES))
def test_the_named_tests_exist_and_name_the_line(line):
    """At least one of a line's tests says its number, so that the two cannot drift apart unnoticed."""
    said = []
    for name in LINES[line]:
        file, _, function = name.partition("::")
        tree = ast.parse((TESTS / f"{file}.py").read_text(encoding="utf-8"))
        found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function]
        assert found, f"{name} is gone"
        said.append(ast.get_docstring(found[0]) or "")
    numbers = {int(word) for text in said for word in text.replace(",", " ").replace(".", " ").replace(":", " ").split()
               if word.isdecimal()}
    assert any("Checklist" in text for text in said) and line in numbers


def test_ppo_samples_from_the_whole_distribution():
    """Checklist 14: no setting cuts the distribution that rollouts are drawn from and scored under."""
    from tunesmith.contracts import Sampling
    from tunesmith.settings import PpoSettings

    assert not {"top_p", "top_k", "min_tokens"} & PpoSettings.model_fields.keys()
    assert Sampling().top_p == 1.0
