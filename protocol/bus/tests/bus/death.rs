//! ACT-01: a service that dies is noticed, and nobody who holds its port has to do anything about it.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use cml_bus::{
    error::BusError,
    event::{Event, Events},
    supervisor::{Throttle, supervise},
};

use super::rig::{Count, End, Hang, Panic, PanicBeside, PanicLater, Rig, system};

#[test]
fn a_panic_is_server_death_to_the_caller_and_the_same_port_works_again() {
    system(|| async {
        let mut rig = Rig::at_work().await;
        for _ in 0..3 {
            assert_eq!(rig.port.count.call(Count).await, Ok(1));
            assert_eq!(rig.port.count.call(Count).await, Ok(2));
            let answer = rig.port.panic.call(Panic).await;
            assert_eq!(answer, Err(BusError::ServerDeath("rig.panic")));
            rig.restarted().await;
        }
        // The state of the dead one is not taken over.
        assert_eq!(rig.port.count.call(Count).await, Ok(1));
        assert!(!rig.supervisor.is_finished());
    });
}

#[test]
fn who_hears_of_a_restart_finds_the_port_bound() {
    system(|| async {
        let mut rig = Rig::at_work().await;
        let _ = rig.port.panic.call(Panic).await;
        assert!(!rig.port.count.is_bound());
        rig.restarted().await;
        assert!(rig.port.count.is_bound());
    });
}

#[test]
fn a_panic_in_a_future_of_the_actor_is_a_death_too() {
    system(|| async {
        let mut rig = Rig::at_work().await;
        let answer = rig.port.panic_later.call(PanicLater).await;
        assert_eq!(answer, Err(BusError::ServerDeath("rig.panic_later")));
        rig.restarted().await;
        assert_eq!(rig.port.count.call(Count).await, Ok(1));
    });
}

#[test]
fn a_panic_beside_the_actor_costs_that_call_only() {
    system(|| async {
        let mut rig = Rig::at_work().await;
        assert_eq!(rig.port.count.call(Count).await, Ok(1));
        let answer = rig.port.panic_beside.call(PanicBeside).await;
        assert_eq!(answer, Err(BusError::ServerDeath("rig.panic_beside")));
        assert_eq!(rig.port.count.call(Count).await, Ok(2));
        assert!(rig.events.try_recv().is_err());
    });
}

#[test]
fn calls_that_wait_behind_the_deadly_one_are_answered() {
    system(|| async {
        let rig = Rig::at_work().await;
        let (first, second, third) = tokio::join!(
            rig.port.count.call(Count),
            rig.port.panic.call(Panic),
            rig.port.count.call(Count),
        );
        assert_eq!(first, Ok(1));
        assert_eq!(second, Err(BusError::ServerDeath("rig.panic")));
        assert_eq!(third, Err(BusError::ServerDeath("rig.count")));
    });
}

#[test]
fn work_beside_the_actor_is_not_ended_by_its_death() {
    system(|| async {
        let mut rig = Rig::at_work().await;
        let slot = rig.port.hang.clone();
        let waiting = cml_bus::actor::spawn(async move { slot.call(Hang).await });
        tokio::task::yield_now().await;
        let _ = rig.port.panic.call(Panic).await;
        rig.restarted().await;
        assert!(!waiting.is_finished());
        tokio::time::pause();
        assert_eq!(waiting.await.unwrap(), Err(BusError::Deadline("rig.hang")));
    });
}

#[test]
fn between_death_and_restart_a_request_is_refused_untouched() {
    system(|| async {
        let mut rig = Rig::new(Throttle {
            pause: Duration::from_secs(3600),
            ..Throttle::default()
        });
        rig.started.recv().await.unwrap();
        let _ = rig.port.panic.call(Panic).await;
        let unbound = BusError::Unbound("rig.count");
        assert_eq!(rig.port.count.call(Count).await, Err(unbound));
        assert_eq!(rig.port.count.post(Count), Err(unbound));
        tokio::time::pause();
        rig.restarted().await;
        assert_eq!(rig.port.count.call(Count).await, Ok(1));
    });
}

#[test]
fn an_orderly_end_is_the_end() {
    system(|| async {
        let mut rig = Rig::at_work().await;
        rig.port.end.call(End { orderly: true }).await.unwrap();
        assert_eq!(rig.ended().await, Ok(()));
        assert!(rig.started.recv().await.is_none());
        assert!(rig.events.try_recv().is_err());
        let answer = rig.port.count.call(Count).await;
        assert_eq!(answer, Err(BusError::Unbound("rig.count")));
    });
}

#[test]
fn an_end_that_nobody_announced_is_a_death() {
    system(|| async {
        let mut rig = Rig::at_work().await;
        rig.port.end.call(End { orderly: false }).await.unwrap();
        rig.restarted().await;
        assert_eq!(rig.port.count.call(Count).await, Ok(1));
    });
}

#[test]
fn a_panic_while_the_service_is_made_is_a_death() {
    system(|| async {
        let events = Events::default();
        let mut heard = events.subscribe();
        let mut starts = 0;
        let ended = supervise("rig", Throttle::default(), events, |watch| {
            starts += 1;
            assert!(starts > 2, "as asked: while starting");
            watch.ends_cleanly();
        });
        assert_eq!(ended.await, Ok(()));
        assert_eq!(starts, 3);
        let restarted = Event::ServiceRestarted { service: "rig" };
        assert_eq!(heard.recv().await, Ok(restarted.clone()));
        assert_eq!(heard.recv().await, Ok(restarted));
    });
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_log_names_the_request_that_a_service_died_on_and_the_service() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    system(|| async {
        let mut rig = Rig::at_work().await;
        let _ = rig.port.panic.call(Panic).await;
        rig.restarted().await;
    });
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("rig.panic"), "{log}");
    assert!(log.contains("service=\"rig\""), "{log}");
}
