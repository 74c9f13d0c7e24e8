//! ACT-05: a service that dies again and again is not restarted for ever, nor without a pause.

use std::{cell::RefCell, time::Duration};

use cml_bus::{
    actor::spawn,
    event::{Event, Events},
    supervisor::{CrashLoop, Throttle, supervise},
};
use tokio::time::{Instant, pause, sleep};

use super::rig::{NAME, Panic, Rig, system};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn giving_up_comes_after_exactly_the_allowed_restarts() {
    system(|| async {
        pause();
        for restarts in [0, 1, 2, 7] {
            let throttle = Throttle {
                restarts,
                within: MINUTE,
                pause: Duration::from_millis(50),
            };
            let mut rig = Rig::new(throttle);
            for _ in 0..=restarts {
                rig.started.recv().await.unwrap();
                let _ = rig.port.panic.call(Panic).await;
            }
            let given_up = CrashLoop {
                service: NAME,
                deaths: restarts + 1,
                within: MINUTE,
            };
            assert_eq!(rig.ended().await, Err(given_up));
            assert!(rig.started.recv().await.is_none());
            for _ in 0..restarts {
                let restarted = Event::ServiceRestarted { service: NAME };
                assert_eq!(rig.events.try_recv(), Ok(restarted));
            }
            assert!(rig.events.try_recv().is_err());
        }
    });
}

#[test]
fn there_is_a_pause_before_every_restart() {
    system(|| async {
        pause();
        let throttle = Throttle {
            restarts: 4,
            within: MINUTE,
            pause: Duration::from_millis(50),
        };
        let starts = RefCell::new(Vec::new());
        let ended = supervise(NAME, throttle, Events::default(), |_dies_at_once| {
            starts.borrow_mut().push(Instant::now());
        });
        assert!(ended.await.is_err());
        let starts = starts.into_inner();
        assert_eq!(starts.len(), 5);
        for pair in starts.windows(2) {
            assert!(pair[1] - pair[0] >= throttle.pause);
        }
    });
}

#[test]
fn deaths_of_long_ago_are_forgiven() {
    system(|| async {
        pause();
        let throttle = Throttle {
            restarts: 1,
            within: MINUTE,
            pause: Duration::from_millis(50),
        };
        let mut lives = 0;
        let ended = supervise(NAME, throttle, Events::default(), |watch| {
            lives += 1;
            if lives == 100 {
                watch.ends_cleanly();
            }
            spawn(async move {
                sleep(MINUTE).await;
                drop(watch);
            });
        });
        assert_eq!(ended.await, Ok(()));
        assert_eq!(lives, 100);
    });
}

#[test]
fn the_default_throttle_gives_up_and_says_which_service_and_how_often() {
    system(|| async {
        pause();
        let ended = supervise(NAME, Throttle::default(), Events::default(), drop).await;
        let said = ended.unwrap_err().to_string();
        let deaths = Throttle::default().restarts + 1;
        assert!(said.contains("`rig`"), "{said}");
        assert!(said.contains(&format!("{deaths} times")), "{said}");
    });
}
