//! Events: the sender never waits, and a subscriber that does is told what it missed.

use cml_bus::{
    event::{Event, Events},
    id::ContainerId,
};
use cml_wire::proto::ContainerState;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use super::rig::system;

/// Far more than the ring holds.
const MANY: usize = 10_000;

fn event() -> Event {
    Event::StateChanged {
        id: ContainerId::random(),
        state: ContainerState::Running,
    }
}

#[test]
fn a_slow_subscriber_loses_the_oldest_and_is_told_how_many() {
    system(|| async {
        let events = Events::default();
        let mut slow = events.subscribe();
        let published: Vec<_> = (0..MANY).map(|_| event()).collect();
        published.iter().cloned().for_each(|e| events.publish(e));

        let Err(RecvError::Lagged(lost)) = slow.recv().await else {
            panic!("nothing was lost");
        };
        let lost = usize::try_from(lost).unwrap();
        for expected in &published[lost..] {
            assert_eq!(slow.recv().await.as_ref(), Ok(expected));
        }
        assert_eq!(slow.try_recv(), Err(TryRecvError::Empty));
        // A start makes three, and 64 at a time must not lose one.
        assert!(MANY - lost >= 3 * 64);
    });
}

#[test]
fn a_subscriber_that_keeps_up_loses_nothing_to_one_that_does_not() {
    system(|| async {
        let events = Events::default();
        let (_never_reads, mut keen) = (events.subscribe(), events.subscribe());
        for _ in 0..MANY {
            let event = event();
            events.publish(event.clone());
            assert_eq!(keen.recv().await, Ok(event));
        }
    });
}

#[test]
fn after_a_loss_a_subscriber_is_up_to_date_again() {
    system(|| async {
        let events = Events::default();
        let mut slow = events.subscribe();
        (0..MANY).for_each(|_| events.publish(event()));
        assert!(matches!(slow.recv().await, Err(RecvError::Lagged(_))));
        while slow.try_recv().is_ok() {}
        let event = event();
        events.publish(event.clone());
        assert_eq!(slow.recv().await, Ok(event));
    });
}

#[test]
fn what_was_published_before_a_subscription_is_not_seen() {
    system(|| async {
        let events = Events::default();
        // Nobody listens, and that is fine.
        events.publish(Event::ContainerListChanged);
        let mut late = events.clone().subscribe();
        let event = event();
        events.publish(event.clone());
        assert_eq!(late.recv().await, Ok(event));
    });
}
