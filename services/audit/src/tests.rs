//! The logs on a disk: what is found, what survives, what is bounded.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path, time::Duration};

use cml_bus::{
    actor::{System, spawn},
    api::audit::{AuditError, AuditPort, Flush, Follow, List, Next, Verify},
    audit::{Did, Note, Trail},
    event::Events,
    id::ContainerId,
    supervisor::{Throttle, supervise},
};
use cml_wire::proto::{AuditRecord, AuditSink};
use proptest::prelude::*;

use crate::{Audit, Settings, journal::Journal};

const MIB: u64 = 1 << 20;

fn settings(dir: &Path, limit: u64) -> Settings {
    Settings {
        dir: dir.join("audit"),
        key: dir.join("audit.key"),
        limit,
    }
}

fn open(dir: &Path, limit: u64) -> Journal {
    Journal::open(&settings(dir, limit)).unwrap().unwrap()
}

fn put(journal: &mut Journal, notes: impl IntoIterator<Item = Note>) {
    let trail = Trail::open();
    let events = Events::new(trail.clone());
    notes.into_iter().for_each(|note| events.audit(note));
    journal.take_in(&trail);
}

fn verdicts(journal: &Journal) -> Vec<AuditSink> {
    let all = journal.snapshots(None).unwrap().into_iter();
    all.map(|snapshot| snapshot.check(&journal.key())).collect()
}

fn broken(journal: &Journal) -> Vec<String> {
    let all = verdicts(journal).into_iter();
    all.filter_map(|sink| sink.broken).collect()
}

fn types(journal: &Journal, id: ContainerId) -> Vec<String> {
    let mut all = journal.snapshots(Some(id)).unwrap();
    let newest = all.remove(0).newest(1000).unwrap().into_iter();
    let event = |text: String| text.rsplit_once('.').unwrap().1.to_owned();
    newest.map(|entry| event(entry.record.r#type)).collect()
}

fn log(dir: &Path, id: ContainerId) -> std::path::PathBuf {
    dir.join(format!("audit/{id}.log"))
}

fn meta(record: &AuditRecord, key: &str) -> Option<String> {
    let found = record.meta.iter().find(|meta| meta.key == key);
    found.map(|meta| meta.value.clone())
}

/// A log of five records that was closed in an orderly way.
fn five(dir: &Path) -> ContainerId {
    let id = ContainerId::random();
    let mut journal = open(dir, MIB);
    put(
        &mut journal,
        [Did::Create, Did::Unlock, Did::Start, Did::Stop, Did::Remove].map(|did| did.to(id)),
    );
    journal.sync().unwrap();
    id
}

#[test]
fn a_log_is_as_the_existing_system_writes_it_and_survives_every_restart() {
    let dir = tempfile::tempdir().unwrap();
    let id = five(dir.path());
    let mut journal = open(dir.path(), MIB);
    put(&mut journal, [Did::Reload.here(), Did::Start.to(id)]);
    drop(journal);
    let journal = open(dir.path(), MIB);
    let sinks = verdicts(&journal);
    assert_eq!(
        sinks.iter().map(|sink| sink.records).collect::<Vec<_>>(),
        [1, 6]
    );
    assert!(sinks.iter().all(|sink| sink.broken.is_none()), "{sinks:?}");
    let text = fs::read_to_string(log(dir.path(), id)).unwrap();
    let records: Vec<AuditRecord> = text
        .split_terminator("-----\n")
        .map(|record| cml_wire::text::parse(record.as_bytes()).unwrap())
        .collect();
    assert_eq!(
        records[0].r#type,
        "SSA.CMLD.CONTAINER_MGMT.container-create"
    );
    assert_eq!(records[0].subject_id(), id.to_string());
    let mode = |path: &Path| {
        use std::os::unix::fs::PermissionsExt;
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode(&dir.path().join("audit")), 0o700);
    assert_eq!(mode(&log(dir.path(), id)), 0o600);
}

#[test]
fn a_cut_a_deleted_log_and_a_foreign_record_are_found_and_the_log_goes_on() {
    let cases: [fn(&Path); 4] = [
        |path| {
            let bytes = fs::read(path).unwrap();
            let text = String::from_utf8(bytes).unwrap();
            let last = text.trim_end_matches("-----\n").rfind("-----\n").unwrap();
            fs::write(path, &text[..last + 6]).unwrap();
        },
        |path| fs::remove_file(path).unwrap(),
        |path| fs::write(path, "").unwrap(),
        |path| {
            let bytes = fs::read(path).unwrap();
            fs::write(path, &bytes[..bytes.len() - 100]).unwrap();
        },
    ];
    for (number, tamper) in cases.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let id = five(dir.path());
        // While nobody looks, and while the daemon has it open.
        tamper(&log(dir.path(), id));
        let mut journal = open(dir.path(), MIB);
        assert_eq!(broken(&journal).len(), 1, "case {number}");
        put(&mut journal, [Did::Start.to(id)]);
        assert_eq!(broken(&journal).len(), 1, "case {number}");
        let types = types(&journal, id);
        assert!(
            types.ends_with(&["audit-altered".into(), "container-start".into()]),
            "{types:?}"
        );
        tamper(&log(dir.path(), id));
        assert_eq!(broken(&journal).len(), 1, "case {number}");
    }
}

#[test]
fn a_record_that_was_torn_is_told_of_and_the_log_stays_whole() {
    let dir = tempfile::tempdir().unwrap();
    let id = five(dir.path());
    let anchored = fs::read(dir.path().join("audit/anchor")).unwrap();
    // Written, but not brought to the disk together with the anchor.
    let mut journal = open(dir.path(), MIB);
    put(&mut journal, [Did::Start.to(id), Did::Stop.to(id)]);
    drop(journal);
    let path = log(dir.path(), id);
    let whole = fs::read(&path).unwrap();
    let text = str::from_utf8(&whole).unwrap();
    let last = text.trim_end_matches("-----\n").rfind("-----\n").unwrap() + 6;
    // Every length that a torn write of the last one can have.
    for length in last..=whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        fs::write(dir.path().join("audit/anchor"), &anchored).unwrap();
        let journal = open(dir.path(), MIB);
        assert_eq!(broken(&journal), [""; 0], "{length}");
        let types = types(&journal, id);
        let expected: &[&str] = match length {
            _ if length == last => &["container-start"],
            _ if length == whole.len() => &["container-start", "container-stop"],
            _ => &["container-start", "corrupt-record"],
        };
        assert_eq!(types[5..], *expected);
        if length == last + 30 {
            let mut snapshots = journal.snapshots(Some(id)).unwrap();
            let last = snapshots.remove(0).newest(1).unwrap().remove(0).record;
            assert!(meta(&last, "raw_text").unwrap().starts_with("timestamp: "));
            assert_eq!(meta(&last, "bytes").unwrap(), "30");
        }
    }
}

#[test]
fn what_does_not_fit_is_counted_and_told_as_soon_as_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let id = ContainerId::random();
    let limit = 4000;
    let mut journal = open(dir.path(), limit);
    put(&mut journal, (0..100).map(|_| Did::Start.to(id)));
    let before = fs::read(log(dir.path(), id)).unwrap();
    assert!(before.len() as u64 <= limit);
    let sink = verdicts(&journal).remove(0);
    assert!(sink.dropped > 50 && sink.records + sink.dropped == 100);
    // Nothing older is overwritten, and the count survives.
    journal.sync().unwrap();
    drop(journal);
    let mut journal = open(dir.path(), limit);
    put(&mut journal, [Did::Stop.to(id)]);
    assert_eq!(fs::read(log(dir.path(), id)).unwrap(), before);
    // The guest takes three records; then there is room for one.
    let mut acknowledged = None;
    for _ in 0..4 {
        let next = journal.next(id, acknowledged).unwrap().unwrap();
        acknowledged = Some(next.id);
    }
    put(&mut journal, [Did::Wipe.to(id)]);
    assert_eq!(types(&journal, id).last().unwrap(), "container-wipe");
    let mut snapshots = journal.snapshots(Some(id)).unwrap();
    let last = snapshots.remove(0).newest(1).unwrap().remove(0).record;
    assert_eq!(meta(&last, "dropped"), Some((sink.dropped + 1).to_string()));
    let after = verdicts(&journal).remove(0);
    assert_eq!((after.delivered, after.broken), (3, None));
    assert!(fs::metadata(log(dir.path(), id)).unwrap().len() <= limit);
    drop(journal);
    assert_eq!(broken(&open(dir.path(), limit)), [""; 0]);
}

#[test]
fn a_directory_that_was_taken_away_is_made_again_and_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let id = five(dir.path());
    let mut journal = open(dir.path(), MIB);
    fs::remove_dir_all(dir.path().join("audit")).unwrap();
    put(&mut journal, [Did::Start.to(id)]);
    assert_eq!(types(&journal, id), ["audit-altered", "container-start"]);
    journal.sync().unwrap();
    drop(journal);
    assert_eq!(broken(&open(dir.path(), MIB)).len(), 1);
}

#[test]
fn a_log_that_cannot_be_written_counts_what_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let id = ContainerId::random();
    let mut journal = open(dir.path(), MIB);
    // No file can have this name any more.
    fs::create_dir(log(dir.path(), id)).unwrap();
    put(&mut journal, [Did::Start.to(id), Did::Stop.to(id)]);
    fs::remove_dir(log(dir.path(), id)).unwrap();
    put(&mut journal, [Did::Wipe.to(id)]);
    let mut snapshots = journal.snapshots(Some(id)).unwrap();
    let last = snapshots.remove(0).newest(1).unwrap().remove(0).record;
    assert_eq!(meta(&last, "dropped").as_deref(), Some("2"));
    assert_eq!(broken(&journal), [""; 0]);
}

#[test]
fn cheap_records_leave_room_for_others() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path(), 8000);
    put(
        &mut journal,
        (0..100).map(|_| Did::SendCommand.here().failed()),
    );
    put(&mut journal, [Did::SetProvisioned.here()]);
    let types = types(&journal, ContainerId::CORE0);
    assert_eq!(types.last().unwrap(), "set-provisioned");
    assert!(types.len() > 10);
}

#[test]
fn a_guest_gets_its_records_in_order_and_only_the_right_acknowledgement_counts() {
    let dir = tempfile::tempdir().unwrap();
    let id = five(dir.path());
    let mut journal = open(dir.path(), MIB);
    let first = journal.next(id, None).unwrap().unwrap();
    assert_eq!(
        journal.next(id, Some([0; 32])).unwrap(),
        Some(first.clone())
    );
    let second = journal.next(id, Some(first.id)).unwrap().unwrap();
    assert_eq!(
        journal.next(id, Some(first.id)).unwrap(),
        Some(second.clone())
    );
    journal.sync().unwrap();
    drop(journal);
    let mut journal = open(dir.path(), MIB);
    let mut next = journal.next(id, None).unwrap();
    assert_eq!(next, Some(second));
    let mut got = Vec::new();
    while let Some(stored) = next {
        got.push(stored.record.r#type);
        next = journal.next(id, Some(stored.id)).unwrap();
    }
    assert_eq!(got.len(), 4);
    assert_eq!(broken(&journal), [""; 0]);
    assert_eq!(journal.next(ContainerId::random(), None).unwrap(), None);
    // What was delivered goes out of the file when it is worth it.
    for _ in 0..300 {
        put(&mut journal, [Did::Start.to(id)]);
    }
    let mut stored = journal.next(id, None).unwrap();
    for _ in 0..250 {
        stored = journal.next(id, stored.map(|stored| stored.id)).unwrap();
    }
    let before = fs::metadata(log(dir.path(), id)).unwrap().len();
    journal.sync().unwrap();
    assert!(fs::metadata(log(dir.path(), id)).unwrap().len() < before / 2);
    assert_eq!(broken(&journal), [""; 0]);
    assert_eq!(journal.next(id, None).unwrap(), stored);
    drop(journal);
    assert_eq!(open(dir.path(), MIB).next(id, None).unwrap(), stored);
}

#[test]
fn a_power_cut_while_delivered_records_are_taken_out_is_no_tampering() {
    let dir = tempfile::tempdir().unwrap();
    let id = five(dir.path());
    let mut journal = open(dir.path(), MIB);
    put(&mut journal, (0..100).map(|_| Did::Start.to(id)));
    let mut stored = journal.next(id, None).unwrap();
    for _ in 0..50 {
        stored = journal.next(id, stored.map(|stored| stored.id)).unwrap();
    }
    // Not worth it yet: the anchor is written, the file stays. The shorter one gets its name by hand, and the anchor
    // does not know of it.
    journal.sync().unwrap();
    drop(journal);
    let text = fs::read_to_string(log(dir.path(), id)).unwrap();
    let rest: String = text.split_inclusive("-----\n").skip(50).collect();
    fs::write(log(dir.path(), id), rest).unwrap();
    let mut journal = open(dir.path(), MIB);
    assert_eq!(broken(&journal), [""; 0]);
    assert_eq!(journal.next(id, None).unwrap(), stored);
}

#[test]
fn logs_without_a_genuine_anchor_are_set_aside_and_that_is_told_for_good() {
    for case in ["no anchor", "altered anchor", "no key"] {
        let dir = tempfile::tempdir().unwrap();
        let id = five(dir.path());
        let anchor = dir.path().join("audit/anchor");
        match case {
            "no anchor" => fs::remove_file(&anchor).unwrap(),
            "no key" => fs::remove_file(dir.path().join("audit.key")).unwrap(),
            _ => fs::write(&anchor, "x").unwrap(),
        }
        let before = fs::read(log(dir.path(), id)).unwrap();
        for _ in 0..2 {
            let journal = open(dir.path(), MIB);
            assert!(journal.broken.is_some(), "{case}");
            assert_eq!(types(&journal, ContainerId::CORE0), ["audit-altered"]);
        }
        let mut names = fs::read_dir(dir.path().join("audit")).unwrap().flatten();
        let aside = names.find(|entry| entry.file_name().to_string_lossy().contains("unanchored"));
        assert_eq!(fs::read(aside.unwrap().path()).unwrap(), before, "{case}");
    }
}

#[test]
fn logs_of_the_existing_system_are_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let id = ContainerId::random();
    fs::create_dir(dir.path().join("audit")).unwrap();
    let old =
        "timestamp: 5\ntype: \"SSA.CMLD.CONTAINER_MGMT.container-start\"\n-----\nnonsense\n-----\n";
    fs::write(log(dir.path(), id), old).unwrap();
    let mut journal = open(dir.path(), MIB);
    put(&mut journal, [Did::Stop.to(id)]);
    let expected = ["container-start", "corrupt-record", "container-stop"];
    assert_eq!(types(&journal, id), expected);
    assert_eq!(broken(&journal), [""; 0]);
    drop(journal);
    assert_eq!(types(&open(dir.path(), MIB), id), expected);
}

#[test]
fn while_auditing_is_off_nothing_is_written_and_what_is_there_can_be_checked() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Journal::open(&settings(dir.path(), 0)).unwrap().is_none());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let id = five(dir.path());
    let before = fs::read(log(dir.path(), id)).unwrap();
    let mut journal = open(dir.path(), 0);
    put(&mut journal, [Did::Start.to(id)]);
    assert_eq!(fs::read(log(dir.path(), id)).unwrap(), before);
    let sink = verdicts(&journal).remove(0);
    assert_eq!((sink.records, sink.dropped, sink.broken), (5, 0, None));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn any_byte_that_was_changed_is_found(at in any::<proptest::sample::Index>(), by in 1..=255_u8) {
        let dir = tempfile::tempdir().unwrap();
        let id = five(dir.path());
        let mut bytes = fs::read(log(dir.path(), id)).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= by;
        fs::write(log(dir.path(), id), bytes).unwrap();
        prop_assert_eq!(broken(&open(dir.path(), MIB)).len(), 1);
    }

    #[test]
    fn any_byte_that_was_added_or_taken_out_is_found(
        at in any::<proptest::sample::Index>(), added in proptest::option::of(any::<u8>())
    ) {
        let dir = tempfile::tempdir().unwrap();
        let id = five(dir.path());
        let mut bytes = fs::read(log(dir.path(), id)).unwrap();
        let at = at.index(bytes.len());
        match added {
            Some(byte) => bytes.insert(at, byte),
            None => drop(bytes.remove(at)),
        }
        let journal = open(dir.path(), MIB);
        fs::write(log(dir.path(), id), bytes).unwrap();
        prop_assert_eq!(broken(&journal).len(), 1);
    }

    #[test]
    fn any_order_or_choice_of_the_records_but_theirs_is_found(
        order in proptest::collection::vec(0..5_usize, 0..7)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let id = five(dir.path());
        let text = fs::read_to_string(log(dir.path(), id)).unwrap();
        let records: Vec<_> = text.split_inclusive("-----\n").collect();
        let other: String = order.iter().map(|index| records[*index]).collect();
        fs::write(log(dir.path(), id), other).unwrap();
        let intact = order == [0, 1, 2, 3, 4];
        prop_assert_eq!(broken(&open(dir.path(), MIB)).is_empty(), intact);
    }
}

/// A supervised service, and where notes for it go.
async fn service(dir: &Path, limit: u64) -> (AuditPort, Events) {
    let trail = Trail::open();
    let (port, events) = (AuditPort::default(), Events::new(trail.clone()));
    let (bound, settings, told) = (port.clone(), settings(dir, limit), events.clone());
    spawn(async move {
        let start = |watch| bound.bind(&Audit::start(settings.clone(), trail.clone(), watch));
        let _ = supervise("audit", Throttle::default(), told, start).await;
    });
    tokio::task::yield_now().await;
    (port, events)
}

#[test]
fn the_service_writes_what_is_noted_and_tells_who_follows() {
    let dir = tempfile::tempdir().unwrap();
    System::new().block_on(async {
        let (port, events) = service(dir.path(), MIB).await;
        let container = ContainerId::random();
        let mut room = port.follow.call(Follow { container }).await.unwrap();
        assert_eq!(*room.borrow_and_update(), MIB);
        events.audit(Did::Start.to(container));
        let changed = tokio::time::timeout(Duration::from_secs(20), room.changed());
        changed.await.unwrap().unwrap();
        assert!(*room.borrow() < MIB);
        let next = Next {
            container,
            acknowledged: None,
        };
        let stored = port.next.call(next).await.unwrap().unwrap();
        let last = Next {
            container,
            acknowledged: Some(stored.id),
        };
        assert_eq!(port.next.call(last).await.unwrap(), None);
        for number in 0..100 {
            events.audit(Did::Reload.here().meta("number", number));
        }
        let list = List {
            container: None,
            limit: 10,
        };
        let listed = port.list.call(list).await.unwrap();
        let numbers = listed.iter().map(|entry| meta(&entry.record, "number"));
        let expected: Vec<_> = (90..100).map(|number| Some(number.to_string())).collect();
        assert_eq!(numbers.collect::<Vec<_>>(), expected);
        port.flush.call(Flush).await.unwrap();
        let verdict = port.verify.call(Verify).await.unwrap();
        assert!(verdict.enabled && verdict.broken.is_none());
        assert!(verdict.sinks.iter().all(|sink| sink.broken.is_none()));
        assert_eq!(
            verdict.sinks.iter().map(|sink| sink.records).sum::<u64>(),
            100
        );
    });
}

#[test]
fn a_service_that_keeps_no_log_says_so() {
    let dir = tempfile::tempdir().unwrap();
    System::new().block_on(async {
        let (port, _) = service(dir.path(), 0).await;
        let container = ContainerId::CORE0;
        let next = Next {
            container,
            acknowledged: None,
        };
        assert_eq!(port.next.call(next).await, Err(AuditError::Off));
        let verdict = port.verify.call(Verify).await.unwrap();
        assert!(!verdict.enabled && verdict.sinks.is_empty());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    });
}
