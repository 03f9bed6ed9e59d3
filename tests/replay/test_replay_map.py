"""docs/conformance-replay.md has every case of duroxide's replay engine, and each test that it names exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
MAP = ROOT / "docs" / "conformance-replay.md"
ROW = re.compile(
    r"^\| `(?P<case>\w+)` \| (?P<proof>none|`(?P<file>[\w/]+\.py)::(?P<test>\w+)`) \| (?P<note>.*) \|$"
)

# The groups and their cases, as they are named there.
CASES = {
    "action_to_event": """
        schedule_activity_creates_activity_scheduled_event
        schedule_activity_on_session_creates_activity_scheduled_event_with_session_id
        schedule_timer_creates_timer_created_event schedule_wait_creates_external_subscribed_event
        schedule_sub_orchestration_creates_sub_orchestration_scheduled_event
        schedule_orchestration_creates_orchestration_chained_event
        multiple_action_types_create_corresponding_events with_tag_sets_tag_on_emitted_event
        no_with_tag_leaves_none schedule_activity_on_session_session_id_mismatch_causes_nondeterminism
        tag_mismatch_on_replay_causes_nondeterminism tag_value_change_on_replay_causes_nondeterminism
        tag_removal_on_replay_causes_nondeterminism detached_orchestration_then_activity_replays_correctly
    """,
    "cancellation": """
        cancel_via_message cancel_in_history cancel_precedence_over_completion cancel_with_pending_activity
        cancel_duplicate_filtered
    """,
    "completion_messages": """
        activity_completed_message timer_fired_message external_raised_message sub_orch_completed_message
        duplicate_completion_filtered duplicate_in_same_batch wrong_execution_filtered
        external_without_subscription multiple_completions_batch duplicate_external_events_in_batch_are_kept
        duplicate_external_event_in_history_is_kept
    """,
    "composition": """
        select2_activity_wins select2_timer_wins select2_both_pending join_all_complete join_partial_complete
        join_fresh_schedule join_one_fails
    """,
    "edge_cases": """
        zero_delay_timer empty_activity_input large_result_string handler_invoked_once
        handler_invoked_once_during_replay empty_external_event_data multiple_external_events_same_name
        made_progress_after_completion final_history_combines_baseline_and_delta
    """,
    "event_allocation": """
        sequential_allocation allocation_after_replay allocation_with_gaps
        pending_actions_have_correct_event_id
    """,
    "failure_handling": """
        application_error_propagates infrastructure_error_aborts configuration_error_aborts
        sub_orch_infra_error_aborts_parent sub_orch_app_error_propagates
    """,
    "fresh_execution": """
        immediate_return_ok immediate_return_err schedule_activity_pending schedule_timer_pending
        schedule_external_pending schedule_sub_orch_pending continue_as_new sub_orch_then_continue_as_new
        multiple_schedules_no_await
    """,
    "history_corruption": """
        empty_history missing_started_event started_not_first completion_source_not_found
        completion_source_wrong_type timer_fired_before_created activity_completed_before_scheduled
        orphan_completion_no_schedule orphan_timer_fired orphan_sub_orch_completed
        duplicate_activity_schedule_in_history duplicate_timer_schedule_in_history
        duplicate_external_subscription_in_history event_id_zero event_id_gap non_monotonic_event_ids
        empty_activity_name unicode_in_names very_long_strings special_characters orphan_external_event
        multiple_completions_same_source_in_history completion_for_different_execution
        completion_wrong_execution terminal_completed terminal_failed terminal_continued_as_new
        multiple_terminal_events events_after_terminal cancel_after_completed
    """,
    "is_replaying": """
        fresh_execution_not_replaying replay_is_replaying transitions_after_history
        fresh_start_with_zero_persisted
    """,
    "kv": """
        action_to_event_kv_variants replay_set_value_reconstructs_state replay_multiple_sets_last_wins
        replay_clear_then_set replay_clear_single_key replay_set_value_matches_action
        replay_set_value_mismatch_nondeterminism replay_clear_all_values_matches_action
        replay_clear_value_matches_action replay_clear_value_mismatch_nondeterminism
        replay_kv_interleaved_with_activities replay_kv_no_token_binding new_kv_events_after_replay
        kv_state_seeded_from_snapshot kv_state_snapshot_overridden_by_code kv_get_value_same_turn
        kv_get_value_previous_turn kv_get_value_previous_execution kv_set_key_mismatch_nondeterminism
        kv_set_value_mismatch_nondeterminism kv_clear_key_mismatch_nondeterminism kv_set_timestamp_mismatch_ok
        kv_read_modify_write_across_turns_replay kv_read_modify_write_every_turn_snapshot_poisons_replay
        kv_read_modify_write_with_can_snapshot kv_clear_all_then_set_replay
        kv_clear_single_snapshot_key_then_rmw
    """,
    "nondeterminism": """
        schedule_mismatch_activity_vs_timer schedule_mismatch_timer_vs_activity
        schedule_mismatch_wrong_activity_name schedule_mismatch_wrong_input
        schedule_mismatch_wrong_external_name history_schedule_no_emitted_action completion_without_schedule
        completion_kind_mismatch timer_completion_for_activity_schedule
        sub_orch_completion_for_activity_schedule sub_orch_completion_for_timer_schedule
        timer_completion_for_sub_orch_schedule orchestration_chained_no_matching_action
        orchestration_chained_name_mismatch activity_completed_for_timer_in_history
        timer_completion_for_closed_schedule sub_orch_completion_for_closed_schedule
        activity_completion_for_closed_schedule activity_failed_for_closed_schedule
        sub_orch_failed_for_closed_schedule
    """,
    "panic_handling": """
        panic_string panic_other panic_during_await
    """,
    "partial_completion": """
        activity_scheduled_no_completion timer_created_no_fire external_subscribed_no_event
        sub_orch_scheduled_no_completion
    """,
    "replay_with_completions": """
        activity_completed_in_history activity_failed_in_history timer_fired_in_history
        external_received_in_history sub_orch_completed_in_history
    """,
    "sequential_progress": """
        two_activities_first_done two_activities_both_done identical_activities_both_done_routes_correctly
        identical_activities_routes_correctly_across_restart_boundary activity_then_timer timer_then_activity
        many_sequential_activities
    """,
    "sub_orchestration": """
        auto_instance_id replay_uses_history_instance explicit_instance_preserved
        multiple_sub_orchs_unique_ids
    """,
    "unobserved_futures": """
        select2_timer_wins_activity_cancelled select2_activity_wins_timer_not_cancelled
        select3_two_activities_cancelled completed_future_not_in_cancelled_list
        explicit_drop_activity_gets_cancelled explicit_drop_timer_no_cancel_needed explicit_drop_external_wait
        multiple_dropped_activities_all_cancelled sub_orch_drop_after_schedule_cancelled
        sub_orch_select_loser_child_cancelled replay_select_loser_same_cancellation
        completed_sub_orch_not_cancelled explicit_drop_then_await_captures_cancellation
        replay_tolerates_completion_after_cancel_request replay_fails_when_cancellation_decisions_differ
        cross_turn_activity_cancellation_emits_both_signals
        cross_turn_sub_orch_cancellation_emits_both_signals
        replay_does_not_reemit_activity_cancellation_side_channel_when_already_in_history
        replay_does_not_reemit_sub_orch_cancellation_side_channel_when_already_in_history
        replay_allows_new_cancellations_in_current_turn_even_when_prior_cancellations_exist
        replay_fails_if_persisted_dropped_future_cancel_is_no_longer_emitted_by_code
        duplicate_activity_cancel_requested_is_benign duplicate_sub_orch_cancel_requested_is_benign
    """,
}
COUNT = 191


def sections() -> dict[str, list[re.Match[str]]]:
    """The rows of each section of the page; each row must have the form of `ROW`."""
    found: dict[str, list[re.Match[str]]] = {}
    rows: list[re.Match[str]] = []
    for line in MAP.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            name, _, count = line[3:].partition(" ")
            rows = found[name] = []
            assert count == f"({len(CASES[name].split())})", line
        elif line.startswith("| `"):
            row = ROW.match(line)
            assert row is not None, line
            rows.append(row)
    return found


@cache
def names_in(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(
        n.name for n in tree.body if isinstance(n, functions) and n.name.startswith("test_")
    )


def test_the_cases_are_all_there():
    assert sum(len(names.split()) for names in CASES.values()) == COUNT
    assert list(sections()) == list(CASES)


@pytest.mark.parametrize("group", CASES)
def test_each_case_of_a_group_is_mapped_once_and_in_order(group: str):
    assert [row["case"] for row in sections()[group]] == CASES[group].split()


@pytest.mark.parametrize("group", CASES)
def test_each_case_names_a_test_that_exists_or_a_reason(group: str):
    for row in sections()[group]:
        if row["proof"] == "none":
            assert row["note"].endswith("."), f"{row['case']}: why does it have no meaning here?"
        else:
            assert row["test"] in names_in(row["file"]), row[0]
