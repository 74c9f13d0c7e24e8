//! The audit log: what a client may ask of it, and what it is told of clients.

use cml_bus::{
    api::audit::{AuditError, Verdict},
    audit::Did,
    testing::fake,
};
use cml_wire::proto::{
    AuditEntry, AuditRecord, AuditSink, ControllerToDaemon,
    controller_to_daemon::Command,
    daemon_to_controller::{Code, Response},
};

use super::rig::{OPEN, Rig, bare, id, system, targeted};
use crate::{Mode, translate_out};

#[test]
fn what_a_client_may_not_is_noted_and_a_mistake_is_not() {
    system(|| async {
        let rig = Rig::new(Mode {
            provisioned: true,
            ..OPEN
        });
        let mut client = rig.client();
        for command in [Command::RemoveContainer, Command::AuditVerify] {
            let reply = client.ask(&bare(command)).await;
            assert_eq!(reply.response(), Response::CmdUnsupported);
        }
        // Admitted, but without a container.
        client.ask(&bare(Command::ContainerStop)).await;
        let unknown = ControllerToDaemon {
            command: 4711,
            ..Default::default()
        };
        client.ask(&unknown).await;
        let noted: Vec<_> = rig.trail.take().collect();
        assert!(noted.iter().all(|note| note.did() == Did::SendCommand));
        let commands = noted.iter().map(|note| {
            let record = note.record();
            assert!(record.r#type.starts_with("FSA."));
            assert!(record.meta.iter().any(|meta| meta.key == "uid"));
            record.meta[0].value.clone()
        });
        let expected = ["REMOVE_CONTAINER", "AUDIT_VERIFY", "4711"];
        assert_eq!(commands.collect::<Vec<_>>(), expected);
    });
}

#[test]
fn a_push_without_its_proof_is_noted() {
    system(|| async {
        let rig = Rig::new(OPEN);
        let push = ControllerToDaemon {
            guestos_config_file: Some(b"x".to_vec()),
            ..bare(Command::PushGuestosConfig)
        };
        rig.client().ask(&push).await;
        rig.client().ask(&bare(Command::PushGuestosConfig)).await;
        let noted: Vec<_> = rig.trail.take().map(|note| note.did()).collect();
        assert_eq!(noted, [Did::PushWithoutSignature, Did::PushWithoutConfig]);
    });
}

#[test]
fn records_are_asked_for_and_come_as_they_are() {
    system(|| async {
        let rig = Rig::new(OPEN);
        let entry = AuditEntry {
            sink: id().to_string(),
            record: Did::Start.to(id()).record(),
        };
        let sent = entry.clone();
        let asked = fake(&rig.audit.list, move |_| Ok(vec![sent.clone()]));
        let reply = rig
            .client()
            .ask(&ControllerToDaemon {
                audit_limit: Some(7),
                ..targeted(Command::AuditList)
            })
            .await;
        assert_eq!(reply.code(), Code::AuditRecords);
        assert_eq!(reply.audit_entries, [entry]);
        rig.client().ask(&bare(Command::AuditList)).await;
        let asked = asked.take();
        assert_eq!((asked[0].container, asked[0].limit), (Some(id()), 7));
        assert_eq!((asked[1].container, asked[1].limit), (None, 1000));
    });
}

#[test]
fn a_verdict_says_in_words_what_is_broken() {
    let sink = |broken: Option<&str>| AuditSink {
        sink: id().to_string(),
        broken: broken.map(Into::into),
        ..Default::default()
    };
    let verdict = |sinks: Vec<AuditSink>, broken: Option<&str>| {
        translate_out::audit_verdict(Ok(Verdict {
            sinks,
            broken: broken.map(Into::into),
            enabled: true,
        }))
    };
    assert_eq!(verdict(vec![sink(None)], None).audit_broken, None);
    let reply = verdict(vec![sink(None), sink(Some("record 3"))], Some("no anchor"));
    let words = reply.audit_broken();
    assert!(
        words.contains("no anchor") && words.contains("record 3"),
        "{words}"
    );
    let reply = translate_out::audit_verdict(Err(AuditError::Off));
    assert_eq!(reply.response(), Response::CmdFailed);
}

#[test]
fn more_records_than_a_frame_holds_lose_the_oldest() {
    let entry = |number: usize| AuditEntry {
        sink: id().to_string(),
        record: AuditRecord {
            timestamp: 0,
            r#type: format!("{number} {}", "x".repeat(1 << 20)),
            ..Default::default()
        },
    };
    let reply = translate_out::audit_list(Ok((0..60).map(entry).collect()));
    assert!(prost::Message::encoded_len(&reply) < 64 << 20);
    assert!(reply.audit_entries.len() > 40);
    let last = reply.audit_entries.last().map(|entry| &entry.record.r#type);
    assert!(last.is_some_and(|text| text.starts_with("59 ")));
}
