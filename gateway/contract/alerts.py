"""The catalogue of everything that `interlock status` and a gateway's reports can complain of."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NewType

AlertText = NewType("AlertText", str)
"""An alert in words, its identifier first. Only `alert` makes one."""


class Alert(StrEnum):
    """What is wrong, by the name under which the page of reasons explains it."""

    # What the control plane sees
    NOBODY_ANSWERS = "NOBODY_ANSWERS"
    NO_GATEWAY = "NO_GATEWAY"
    GATEWAY_SILENT = "GATEWAY_SILENT"
    GATEWAY_BEHIND = "GATEWAY_BEHIND"
    GATEWAY_FEATURES_BEHIND = "GATEWAY_FEATURES_BEHIND"
    CONTROL_PLANE_AWAY = "CONTROL_PLANE_AWAY"
    STOPPED_BY_OPERATOR = "STOPPED_BY_OPERATOR"
    STEPPED_BACK = "STEPPED_BACK"
    GATEWAY_AWAY = "GATEWAY_AWAY"
    CHAMPION_DECAYS = "CHAMPION_DECAYS"
    PROMOTED_VERSION_HARMS = "PROMOTED_VERSION_HARMS"
    # What a gateway reports
    CONTROL_UNREACHABLE = "CONTROL_UNREACHABLE"
    TABLE_REFUSED = "TABLE_REFUSED"
    WITHDRAWALS_NOT_KEPT = "WITHDRAWALS_NOT_KEPT"
    ARTIFACT_WAITED_FOR = "ARTIFACT_WAITED_FOR"
    FEATURE_LOG_UNREACHABLE = "FEATURE_LOG_UNREACHABLE"
    FEATURE_BATCH_REFUSED = "FEATURE_BATCH_REFUSED"
    ONLINE_STORE_FULL = "ONLINE_STORE_FULL"
    ONLINE_STORE_FAILED = "ONLINE_STORE_FAILED"
    FILE_UNREADABLE = "FILE_UNREADABLE"
    VERSION_NOT_LOADED = "VERSION_NOT_LOADED"
    FEATURES_AWAITED = "FEATURES_AWAITED"
    JOURNAL_NOT_KEPT = "JOURNAL_NOT_KEPT"
    OUTCOME_LOG_FAILED = "OUTCOME_LOG_FAILED"
    LAKE_NOT_WRITTEN = "LAKE_NOT_WRITTEN"
    SHADOW_NOT_SCORED = "SHADOW_NOT_SCORED"
    EVIDENCE_NOT_KEPT = "EVIDENCE_NOT_KEPT"
    CRASH_LOOP = "CRASH_LOOP"
    WORKER_SILENT = "WORKER_SILENT"


ALERTS: Final[Mapping[Alert, str]] = MappingProxyType(
    {
        Alert.NOBODY_ANSWERS: "The model is registered and no version of it is the champion, so calls for it end in MODEL_UNKNOWN. Approve a version, then make it the champion: `interlock approval list`, `interlock model promote MODEL/VERSION`.",
        Alert.NO_GATEWAY: "No gateway is connected to this control plane. Gateways that run go on serving what they have, but nobody confirms it, and no change reaches them. On the gateway's host: does the process run, does `gateway.control` name this control plane, is its token valid? Its log says `uplink_problem`. `interlock gateway` starts one.",
        Alert.GATEWAY_SILENT: "A gateway is connected and has not reported for a while: its observer hangs, or the network between the two does. Calls are not affected, but canaries get no traffic while a gateway's observer does not stir. See that host's log, and `interlock status` again after half a minute.",
        Alert.GATEWAY_BEHIND: "A gateway has not put the newest route table in force in all of its workers, so callers may get the former champion. It is normal for some seconds after a promotion; if it lasts, another alert of the same gateway says why (ARTIFACT_WAITED_FOR, VERSION_NOT_LOADED, FEATURES_AWAITED). `interlock rollback MODEL` makes the former champion official.",
        Alert.GATEWAY_FEATURES_BEHIND: "A gateway has not applied the feature batches that the champion needs, so its new champion waits. It is normal while a large materialization is on its way; if it lasts, look for FEATURE_LOG_UNREACHABLE, FEATURE_BATCH_REFUSED or ONLINE_STORE_FULL of the same gateway. `interlock features get ENTITY KEY` shows what the gateway has.",
        Alert.CONTROL_PLANE_AWAY: "The control plane cannot be reached from here; the gateway of this host can, and serves the last route table that it took. Scoring is not affected; promotions, approvals and materialization wait. Start the control plane (`interlock control`) or name it (`--control HOST:PORT`).",
        Alert.STOPPED_BY_OPERATOR: "An operator has stopped the model: callers get the fallback that its document declares, or MODEL_STOPPED. The words say who and why. `interlock model start MODEL --reason ...` has its champion answer again; `interlock rollback MODEL` first, if the champion is what was wrong.",
        Alert.STEPPED_BACK: "A gateway stepped back alone from the version that it was told to serve (`interlock gateway rollback`), so it answers differently from the others, and its replies say so by a flag. The control plane records that as soon as it hears of it and rolls the model back for all gateways; if this alert stays, no former champion is left to go back to: promote another approved version.",
        Alert.GATEWAY_AWAY: "A gateway that was connected within the last day is not, and what it last confirmed is older than the newest route table: if it runs, it answers by that. See whether its host and process run and reach the control plane; `interlock gateway rollback MODEL` on the host does what `interlock rollback` cannot reach.",
        Alert.CHAMPION_DECAYS: "Far more calls of the model fail than did in the hour before: at least 20 rows in the last five minutes, at least 5 % of them, and at least three times the share of the rest of the hour, over all gateways. Counted are rows that nobody got an answer to by the version's fault (MODEL_FAILED, SCORE_NOT_FINITE, OUTPUT_REJECTED, missing, stale or damaged features, INPUT_MISMATCH). Nothing is rolled back by itself, for there is no other version to compare with: the cause may be the callers or the features. If a promotion came before it, `interlock rollback MODEL --reason WHY` takes that back; `interlock model history MODEL` says what changed.",
        Alert.PROMOTED_VERSION_HARMS: "A version that an approver promoted without evidence does harm: more of what it answers is bad than of the version that it is compared with in the holdback, beyond doubt. Statistics would have rolled it back; against a person's decision they only say so. `interlock rollback MODEL --reason WHY` takes it back, `interlock rollout show MODEL` has the figures.",
        Alert.CONTROL_UNREACHABLE: "The gateway cannot hold its connection to the control plane; the words say whether it was refused (a token: `gateway.token_file`) or not reached (`gateway.control`). It goes on serving what it has, and tries again every few seconds. Is the control plane up? `interlock status` on its host.",
        Alert.TABLE_REFUSED: "The control plane offers a route table that this gateway must not take: of another history (a backup was restored, or another installation answers), older than the one in force, or of a format that this release cannot read. The former table stays in force. The words name both sides, and what to do if the control plane is right about another history.",
        Alert.WITHDRAWALS_NOT_KEPT: "The gateway cannot write its record of what it has withdrawn (versions that it stepped back from). What is on disk stays in force; a new step back would not survive a restart. The words say what the disk answered: free space on the gateway's data directory, or replace a damaged record.",
        Alert.ARTIFACT_WAITED_FOR: "A route table names an artifact that the gateway could not fetch, verify or keep; the former table stays in force until it can. The words say which of these. A full disk is mended by space; an artifact that does not match its digest, by registering the model again.",
        Alert.FEATURE_LOG_UNREACHABLE: "The gateway's materializer cannot follow the feature log of the control plane. Features that are stored are served on and grow older; `feature_age_ms` in the replies shows it. As for CONTROL_UNREACHABLE: is the control plane up, and is the token right? `interlock status` on its host says so.",
        Alert.FEATURE_BATCH_REFUSED: "A feature batch cannot be applied: it belongs to another history than the online store, or is damaged. Nothing of it was applied, and later batches wait. The words say what to do if the control plane is right about another history. Otherwise report it, with the gateway's log.",
        Alert.ONLINE_STORE_FULL: "The online store has reached `gateway.map_bytes`; no feature is updated any more, and scores use what is stored. Stop the gateway, raise `gateway.map_bytes` (it is address space, so be generous: eight times the data), and start it again.",
        Alert.ONLINE_STORE_FAILED: "The online store cannot be written: the disk is full or failing, or the store is damaged. Scores go on with what is stored. The gateway's log has the cause under `materializer_failed`. If the disk is sound, stop the gateway and remove its directory `features`: it is filled again from the feature log.",
        Alert.FILE_UNREADABLE: "A worker cannot read a file that says what it serves (the route table, or what this gateway has withdrawn); what it read before stays in force. The words name the file. If the disk is sound, remove it and start the gateway anew: the uplink writes the route table again.",
        Alert.VERSION_NOT_LOADED: "A worker could not load a version, or the version failed its golden rows on this host; its predecessor answers, and loading is tried again, more and more rarely. The words say what failed. `interlock rollback MODEL` makes the predecessor official; `interlock model history MODEL` says what changed.",
        Alert.FEATURES_AWAITED: "A version is loaded and waits for feature batches that this gateway has not applied; its predecessor answers. It is normal while a materialization is on its way. If it lasts, look for FEATURE_LOG_UNREACHABLE, FEATURE_BATCH_REFUSED or ONLINE_STORE_FULL.",
        Alert.JOURNAL_NOT_KEPT: "A worker has no room for its journal, so it serves and records nothing: metrics miss its rows, and rollouts hold. Free `gateway.journal_bytes` on the disk of the gateway's data directory, or make that setting smaller; the worker tries again every ten seconds.",
        Alert.OUTCOME_LOG_FAILED: "A worker cannot write outcomes to its disk; RecordOutcomes answers an error, so that no caller takes an outcome for kept that is not. Scoring is not affected. Free space on the disk of the gateway's data directory.",
        Alert.LAKE_NOT_WRITTEN: "The recorder cannot write prediction rows to the lake. They stay in the journal until they are overwritten, and are written when it can again; what is overwritten first is counted as lost. The words say what the disk or the store answered. Free space, or mend the place that `gateway.lake` names.",
        Alert.EVIDENCE_NOT_KEPT: "A gateway cannot write down what a rollout's rows show, or that it withdraws a version. Until it can, it sends nothing to any canary, counts nothing and reports nothing, so those rollouts hold; callers are answered by the control. Free space on the gateway's disk, or see in its log (`evidence_not_kept`, `challenger_not_withdrawn`) what else it refuses.",
        Alert.SHADOW_NOT_SCORED: "The mirror of a gateway does not score a shadow, so its rollout gets no pairs from there: the version or what it is compared with cannot be loaded (in the memory that `gateway.mirror_bytes` allows, for one), or the shadow ended the mirror three times by a crash or by its memory. Callers and other shadows are not affected. `interlock rollout rollback` ends the rollout.",
        Alert.CRASH_LOOP: "A process of the gateway ended three times within a minute and is started again after longer and longer pauses. The others go on without it. Its log lines say why: the event is `process_failed` with a traceback, or the signal that ended it (9 is often the kernel, out of memory).",
        Alert.WORKER_SILENT: "A worker has said nothing for five seconds: it is starting, or it hangs. If it lasts, one model's run may be stuck: kill that process (`ps` shows it as `gateway worker N`), and the supervisor starts another. `interlock rollback MODEL` takes the model's newest version away from it.",
    }
)


def alert(which: Alert, words: str) -> AlertText:
    """The alert, said in this case's words."""
    return AlertText(f"{which}: {words}")


def at(place: str, text: str) -> AlertText:
    """The same alert, and where it was raised: the identifier stays first."""
    which = identifier(text)
    return AlertText(f"{place}: {text}") if which is None else alert(which, f"{place}: {text[len(which) + 2 :]}")


def identifier(text: str) -> Alert | None:
    """Which alert a text is of; None for one of another release."""
    name = text.partition(":")[0]
    return Alert(name) if name in ALERTS else None
