//! How a call can end, and that every end is counted.

use std::time::Duration;

use cml_bus::{error::BusError, latency, port::Slot};
use tokio::time::{Instant, pause};

use super::rig::{Count, Hang, Panic, Subject, SubjectPort, system};

#[test]
fn an_unbound_port_says_so() {
    system(|| async {
        let port = SubjectPort::default();
        let unbound = BusError::Unbound("rig.count");
        assert!(!port.count.is_bound());
        assert_eq!(port.count.call(Count).await, Err(unbound));
        assert_eq!(port.count.post(Count), Err(unbound));
    });
}

#[test]
fn holders_of_a_clone_follow_every_new_binding() {
    system(|| async {
        let port = SubjectPort::default();
        let held = port.clone();
        port.count.bind_fn(|_| async { Ok(7) });
        assert_eq!(held.count.call(Count).await, Ok(7));
        port.count.bind_fn(|_| async { Ok(8) });
        assert_eq!(held.count.call(Count).await, Ok(8));
        port.clear();
        let unbound = BusError::Unbound("rig.count");
        assert_eq!(held.count.call(Count).await, Err(unbound));
    });
}

#[test]
fn who_never_answers_is_late_at_the_deadline_of_the_message() {
    system(|| async {
        pause();
        let actor = Subject::with_mailbox(16);
        let fake = SubjectPort::default();
        fake.hang.bind_fn(|_| std::future::pending());
        for port in [actor, fake] {
            let asked = Instant::now();
            let answer = port.hang.call(Hang).await;
            assert_eq!(answer, Err(BusError::Deadline("rig.hang")));
            let waited = asked.elapsed();
            assert!(waited >= Duration::from_secs(1) && waited < Duration::from_secs(2));
        }
    });
}

#[test]
fn a_late_service_is_not_dead() {
    system(|| async {
        pause();
        let port = Subject::with_mailbox(16);
        assert!(port.hang.call(Hang).await.is_err());
        assert_eq!(port.count.call(Count).await, Ok(2));
    });
}

#[derive(Debug)]
struct Counted;

cml_bus::request!(Counted => (), BusError, "ports.counted", 1 s);

#[test]
fn every_call_is_in_the_histogram_however_it_ended() {
    let counted = || -> u64 {
        let all = latency::snapshot();
        all.get("ports.counted")
            .map_or(0, |buckets| buckets.iter().sum())
    };
    system(|| async {
        let slot = Slot::<Counted>::default();
        assert!(slot.call(Counted).await.is_err());
        assert_eq!(counted(), 1);
        slot.bind_fn(|_| async { Ok(()) });
        assert!(slot.call(Counted).await.is_ok());
        assert_eq!(counted(), 2);
        slot.bind_fn(|_| async { Err(BusError::Busy("ports.counted")) });
        assert!(slot.call(Counted).await.is_err());
        assert_eq!(counted(), 3);
        pause();
        slot.bind_fn(|_| std::future::pending());
        assert!(slot.call(Counted).await.is_err());
        assert_eq!(counted(), 4);
    });
}

#[test]
fn what_went_wrong_and_with_which_message_is_in_the_error() {
    system(|| async {
        let port = Subject::with_mailbox(16);
        let said = port.panic.call(Panic).await.unwrap_err().to_string();
        assert!(
            said.contains("rig.panic") && said.contains("died"),
            "{said}"
        );
    });
}
