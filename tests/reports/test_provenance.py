"""The command as a card shows it."""

from selmix_hf.reports.provenance import own_command


def test_no_token_in_the_command():
    words = ["/home/me/run.py", "--hub_token", "hf_secret", "--push_to_hub_token=hf_secret", "--seed", "1"]
    assert own_command(words) == "run.py --hub_token ... --push_to_hub_token=... --seed 1"
    assert own_command(["/usr/bin/ipykernel"]) is None
