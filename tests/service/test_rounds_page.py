from tunesmith.store import loops


def evaluated(number, value, passed=True):
    rate = {"value": value, "low": value - 0.05, "high": value + 0.05, "n": 100}
    return {"report": f"desk-{number}-report", "champion": "champion", "passed": passed, "rules": [
        {"rule": "preference at least 0.5 (proven)", "passed": passed, "found": "over start <b>"}],
        "figures": {"preference": {"champion": rate, "start": {**rate, "value": 0.9}},
                    "own": {"rude": {**rate, "value": 0.1}}}}


def a_round(workspace, number, value=0.6, holds=()):
    found = loops.begin(workspace, "desk", "tone@1", {"challenger": 0.2})
    for step, made in (("collect", {"set": f"desk-{number}-answers"}), ("rank", {"verdicts": 150}),
                       ("check", {"holds": list(holds), "notes": ["<i>eve</i> is new"]}),
                       ("ppo", {"adapter": "tone@2"}), ("evaluate", evaluated(number, value))):
        found = loops.record(workspace, found, step, made)
    return loops.wait(workspace, found, "somebody's yes")


def decide(client, path):
    return client.post(path, data={"why": ""}, follow_redirects=False).status_code


def test_a_round_that_waits_is_decided_on_the_page(client, workspace):
    assert "No rounds yet" in client.get("/rounds").text
    a_round(workspace, 1)
    page = client.get("/rounds").text
    assert "It waits for somebody&#39;s yes" in page and "Adopt tone@2" in page and "60% [55, 65]" in page
    assert "&lt;i&gt;eve&lt;/i&gt;" in page and "<b>" not in page.split("kept</span>")[1][:80]
    split = loops.split(workspace, "desk")
    assert split == loops.Split("tone@1", "tone@2", 0.2) and loops.names(workspace) == {"desk": "tone@1"}
    arms = [split.pick(f"user {n}") for n in range(1000)]
    assert 150 < sum(arm == "challenger" for _, arm, _ in arms) < 250 and arms[7] == split.pick("user 7")
    assert set(arms) == {("tone@1", "champion", 0.8), ("tone@2", "challenger", 0.2)}
    assert decide(client, "/rounds/desk/adopt") == 303
    assert loops.champion(workspace, "desk").adapter == "tone@2"
    assert loops.split(workspace, "desk").pick("user 7") == ("tone@2", "", 1.0)
    assert decide(client, "/rounds/desk/adopt") == 409
    assert decide(client, "/rounds/desk/rollback") == 303
    page = client.get("/rounds").text
    assert "went back to it" in page and "<code>tone@1</code>" in page
    assert decide(client, "/rounds/desk/rollback") == 409
    assert decide(client, "/rounds/dask/adopt") == 404 and decide(client, "/rounds/desk/sell") == 404


def test_rounds_are_compared_with_intervals(client, workspace):
    for number in (1, 2):
        loops.refuse(workspace, a_round(workspace, number, 0.5 + number / 10), "a public holiday", "me")
    page = client.get("/rounds").text
    assert page.count("<figure>") == 2 and "round 1: 0.6 [0.55, 0.65]; round 2: 0.7 [0.65, 0.75]" in page
    assert "a public holiday" in page and "/reports/desk-2-report" in page


def test_a_page_that_was_left_open_decides_nothing(client, workspace):
    a_round(workspace, 1)
    assert 'name="seen" value="desk 1"' in client.get("/rounds").text
    loops.refuse(workspace, loops.under_way(workspace, "desk"), "", "somebody else")
    a_round(workspace, 2)
    late = client.post("/rounds/desk/adopt", data={"seen": "desk 1"}, follow_redirects=False)
    assert late.status_code == 409 and "now it is desk 2" in late.text
    assert client.post("/rounds/desk/rollback", data={"seen": "tone@9"}, follow_redirects=False).status_code == 409
    assert client.post("/rounds/desk/adopt", data={"seen": "desk 2"}, follow_redirects=False).status_code == 303


def test_no_user_meets_a_candidate_whose_data_are_doubted(workspace):
    a_round(workspace, 1, holds=["eve looks as if they spoil the data"])
    assert loops.split(workspace, "desk") == loops.Split("tone@1")


def test_what_a_person_decided_while_a_step_was_at_work_stands(workspace):
    at_work = a_round(workspace, 1)
    loops.refuse(workspace, at_work, "no", "me")
    assert loops.record(workspace, at_work, "evaluate", evaluated(1, 0.9)).status == "refused"
    late = loops.wait(workspace, at_work, "somebody's yes")
    assert late.status == "refused" and late.steps["adopt"]["why"] == "no"
