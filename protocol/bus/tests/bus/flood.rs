//! ACT-02: nothing queues without bound, and what does not fit is an error that the caller sees.

use std::{cell::Cell, rc::Rc};

use cml_bus::{
    actor::spawn,
    error::BusError,
    port::{CALLS_MAX, Slot},
};
use tokio::{
    sync::oneshot,
    task::{JoinSet, yield_now},
};

use super::rig::{Count, StandStill, Subject, SubjectPort, system};

const FLOOD: usize = 100_000;

#[test]
fn a_service_that_stands_still_is_posted_as_much_as_its_mailbox_holds() {
    system(|| async {
        for capacity in [1, 2, 16, 300] {
            let port = Subject::with_mailbox(capacity);
            let (go_on, until) = oneshot::channel();
            port.stand_still.call(StandStill(until)).await.unwrap();

            let answers: Vec<_> = (0..FLOOD).map(|_| port.count.post(Count)).collect();
            assert!(answers[..capacity].iter().all(Result::is_ok));
            let busy = Err(BusError::Busy("rig.count"));
            assert!(answers[capacity..].iter().all(|answer| *answer == busy));

            drop(go_on);
            assert_eq!(port.count.call(Count).await, Ok(capacity + 1));
            assert_eq!(port.count.post(Count), Ok(()));
        }
    });
}

/// Calls that all wait at the same time; how many were taken and how many were refused as busy.
async fn flood(slot: &Slot<Count>, calls: usize) -> (JoinSet<()>, usize, usize) {
    let (taken, busy) = (Rc::new(Cell::new(calls)), Rc::new(Cell::new(0)));
    let mut under_way = JoinSet::new();
    for _ in 0..calls {
        let (slot, taken, busy) = (slot.clone(), taken.clone(), busy.clone());
        under_way.spawn_local(async move {
            if slot.call(Count).await == Err(BusError::Busy("rig.count")) {
                taken.set(taken.get() - 1);
                busy.set(busy.get() + 1);
            }
        });
    }
    // Refusals come at once: one round of the scheduler is enough for all.
    spawn(yield_now()).await.unwrap();
    (under_way, taken.get(), busy.get())
}

#[test]
fn a_flood_of_calls_is_refused_as_busy_beyond_the_bound() {
    system(|| async {
        let port = Subject::with_mailbox(16);
        let (go_on, until) = oneshot::channel();
        port.stand_still.call(StandStill(until)).await.unwrap();

        let (mut under_way, taken, busy) = flood(&port.count, 3 * CALLS_MAX).await;
        assert_eq!((taken, busy), (CALLS_MAX, 2 * CALLS_MAX));
        let answer = port.count.clone().call(Count).await;
        assert_eq!(answer, Err(BusError::Busy("rig.count")));

        drop(go_on);
        while under_way.join_next().await.is_some() {}
        assert_eq!(port.count.call(Count).await, Ok(CALLS_MAX + 1));
    });
}

#[test]
fn a_flood_of_one_message_leaves_the_others_alone() {
    system(|| async {
        let port = SubjectPort::default();
        port.count.bind_fn(|_| std::future::pending());
        port.panic.bind_fn(|_| async { Ok(()) });
        let (_under_way, _, busy) = flood(&port.count, CALLS_MAX + 1).await;
        assert_eq!(busy, 1);
        assert_eq!(port.panic.call(super::rig::Panic).await, Ok(()));
    });
}

#[test]
fn callers_that_go_away_make_room() {
    system(|| async {
        let slot = Slot::<Count>::default();
        slot.bind_fn(|_| std::future::pending());
        let (mut under_way, _, busy) = flood(&slot, CALLS_MAX + 1).await;
        assert_eq!(busy, 1);
        under_way.shutdown().await;
        slot.bind_fn(|_| async { Ok(1) });
        assert_eq!(slot.call(Count).await, Ok(1));
    });
}
