"""The capability `sql`: statements of programs, in the transaction of a commit."""

# ruff: noqa: D102 - the name of a test says what it proves

from __future__ import annotations

from perdure.kernel.data.commit import Commit, SqlRefused, Statement
from perdure.testing.conformance.scenario import Scenario, StoreFactory, numbered, scene

CREATE = Statement("CREATE TABLE IF NOT EXISTS bills (unit TEXT PRIMARY KEY, amount INTEGER)")


def _bill(unit: str, amount: object) -> Statement:
    return Statement("INSERT INTO bills (unit, amount) VALUES (?, ?)", (unit, amount))


def _demand(unit: str) -> list[Statement]:
    """Statements that fail unless the unit has a bill."""
    check = "CREATE TABLE IF NOT EXISTS checks (n INTEGER CHECK (n = 1))"
    count = "INSERT INTO checks SELECT count(*) FROM bills WHERE unit = ?"
    return [Statement(check), Statement(count, (unit,))]


async def _refusal(scenario: Scenario, commit: Commit) -> SqlRefused:
    (verdict,) = await scenario.apply(commit)
    assert isinstance(verdict, SqlRefused)
    return verdict


class Programs:
    """Statements in a commit. A store without the capability refuses them, and nothing else."""

    async def test_statements_are_part_of_their_commit(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            commit = scenario.commit("order", sql=[CREATE, _bill("order", 5)])
            if "sql" not in scenario.store.info.capabilities:
                assert "SQL" in (await _refusal(scenario, commit)).why
                assert (await scenario.load("order")).row is None
                return
            assert await scenario.apply(commit) == ["applied"]
            assert await scenario.apply(commit) == ["applied"]  # it does not run again
            await scenario.applied("order", 1, sql=_demand("order"))

    async def test_a_refused_commit_runs_none(self, store_factory: StoreFactory) -> None:
        # The program's rows must agree with the instance's, so both are written or none.
        async with scene(store_factory) as scenario:
            if "sql" not in scenario.store.info.capabilities:
                return
            await scenario.applied("order", sql=[CREATE])
            assert await scenario.apply(scenario.commit("order", 7, sql=[_bill("order", 5)])) == [
                "stale"
            ]
            refusal = await _refusal(scenario, scenario.commit("order", 1, sql=_demand("order")))
            assert refusal.statement == 1

    async def test_a_statement_that_fails_is_named_and_harms_no_neighbour(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            refusals = (SqlRefused,) * 2
            message = scenario.message("after")
            bad = scenario.commit(
                "order", sql=[CREATE, _bill("order", 5), _bill("order", 6)], post=[message]
            )
            batch = [scenario.commit("before"), bad, scenario.commit("after")]
            verdicts = await scenario.apply(*batch)
            assert [verdicts[0], verdicts[2]] == ["applied", "applied"]
            assert isinstance(verdicts[1], refusals)
            if "sql" in scenario.store.info.capabilities:
                assert verdicts[1].statement == 2
                assert "UNIQUE" in verdicts[1].why
            assert (await scenario.load("order")).row is None
            assert await scenario.inbox("after") == []

    async def test_many_that_fail_in_one_batch(self, store_factory: StoreFactory) -> None:
        # Each failure costs a rollback, so a batch of many must still come to an end.
        async with scene(store_factory) as scenario:
            bad = scenario.commits(numbered("bad", 5), sql=[Statement("nonsense")])
            good = [scenario.commit(f"good-{n}", post=[scenario.message("box")]) for n in range(5)]
            batch: list[Commit] = []
            for pair in zip(bad, good, strict=True):
                batch += pair
            verdicts = await scenario.apply(*batch)
            assert "applied" not in verdicts[::2]
            assert verdicts[1::2] == ["applied"] * 5
            assert await scenario.inbox("box") == [one.post[0].id for one in good]

    async def test_neither_the_transaction_nor_the_rows_of_the_store_can_be_touched(
        self, store_factory: StoreFactory
    ) -> None:
        # A COMMIT in a program would make half a batch durable. A write to a row of ours would get
        # around the fence.
        async with scene(store_factory) as scenario:
            await scenario.applied("order")
            forbidden = [
                "COMMIT",
                "ROLLBACK",
                "SAVEPOINT here",
                "ATTACH 'other.db' AS other",
                "PRAGMA user_version = 5",
                "SELECT * FROM units",
                "UPDATE units SET version = 7",
                "DELETE FROM inbox",
                "DROP TABLE journal",
                "CREATE TRIGGER mine AFTER INSERT ON units BEGIN SELECT 1; END",
            ]
            for sql in forbidden:
                commit = scenario.commit("order", 1, sql=[Statement(sql)])
                assert (await _refusal(scenario, commit)).statement == 0, sql
            await scenario.applied("order", 1)
