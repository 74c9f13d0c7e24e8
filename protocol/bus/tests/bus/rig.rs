//! A service that does as it is told, and its supervision.

use std::time::Duration;

use cml_bus::{
    actor::{
        Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, ResponseActFuture,
        ResponseFuture, System, WrapFuture, fut, spawn,
    },
    error::BusError,
    event::{Event, Events},
    supervisor::{CrashLoop, Throttle, Watch, supervise},
};
use tokio::{
    sync::{broadcast, mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, timeout},
};

/// Far longer than anything here takes: turns a hang into a failure.
const PATIENCE: Duration = Duration::from_secs(20);

/// The name under which the rig's service is supervised.
pub const NAME: &str = "rig";

/// Counts up and answers how often it was asked since it was started.
#[derive(Debug)]
pub struct Count;

/// Panics in the handler.
#[derive(Debug)]
pub struct Panic;

/// Panics in a future that holds the actor.
#[derive(Debug)]
pub struct PanicLater;

/// Panics in a future that runs beside the actor.
#[derive(Debug)]
pub struct PanicBeside;

/// Is never answered.
#[derive(Debug)]
pub struct Hang;

/// Keeps the actor from its mailbox until the other end of the channel is used or dropped.
#[derive(Debug)]
pub struct StandStill(pub oneshot::Receiver<()>);

/// Ends the actor.
#[derive(Debug)]
pub struct End {
    /// Say that this is intended.
    pub orderly: bool,
}

cml_bus::request!(Count => usize, BusError, "rig.count", 10 s);
cml_bus::request!(Panic => (), BusError, "rig.panic", 10 s);
cml_bus::request!(PanicLater => (), BusError, "rig.panic_later", 10 s);
cml_bus::request!(PanicBeside => (), BusError, "rig.panic_beside", 10 s);
cml_bus::request!(Hang => (), BusError, "rig.hang", 1 s);
cml_bus::request!(StandStill => (), BusError, "rig.stand_still", 10 s);
cml_bus::request!(End => (), BusError, "rig.end", 10 s);

cml_bus::service_port! {
    /// What can be asked of the rig's service.
    SubjectPort {
        count: Count,
        panic: Panic,
        panic_later: PanicLater,
        panic_beside: PanicBeside,
        hang: Hang,
        stand_still: StandStill,
        end: End,
    }
}

/// The service.
#[derive(Debug)]
pub struct Subject {
    counted: usize,
    mailbox: Option<usize>,
    watch: Option<Watch>,
}

impl Subject {
    /// One that nobody supervises, with a mailbox of this capacity.
    pub fn with_mailbox(capacity: usize) -> SubjectPort {
        let port = SubjectPort::default();
        port.bind(&Actor::start(Self {
            counted: 0,
            mailbox: Some(capacity),
            watch: None,
        }));
        port
    }
}

impl Actor for Subject {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        if let Some(capacity) = self.mailbox {
            context.set_mailbox_capacity(capacity);
        }
    }
}

impl Handler<Count> for Subject {
    type Result = Result<usize, BusError>;

    fn handle(&mut self, _: Count, _: &mut Context<Self>) -> Self::Result {
        self.counted += 1;
        Ok(self.counted)
    }
}

impl Handler<Panic> for Subject {
    type Result = Result<(), BusError>;

    fn handle(&mut self, _: Panic, _: &mut Context<Self>) -> Self::Result {
        panic!("as asked: in the handler");
    }
}

impl Handler<PanicLater> for Subject {
    type Result = ResponseActFuture<Self, Result<(), BusError>>;

    fn handle(&mut self, _: PanicLater, _: &mut Context<Self>) -> Self::Result {
        let later = fut::wrap_future::<_, Self>(tokio::task::yield_now());
        Box::pin(later.map(|(), _, _| panic!("as asked: in a future of the actor")))
    }
}

impl Handler<PanicBeside> for Subject {
    type Result = ResponseFuture<Result<(), BusError>>;

    fn handle(&mut self, _: PanicBeside, _: &mut Context<Self>) -> Self::Result {
        Box::pin(async { panic!("as asked: beside the actor") })
    }
}

impl Handler<Hang> for Subject {
    type Result = ResponseFuture<Result<(), BusError>>;

    fn handle(&mut self, _: Hang, _: &mut Context<Self>) -> Self::Result {
        self.counted += 1;
        Box::pin(std::future::pending())
    }
}

impl Handler<StandStill> for Subject {
    type Result = Result<(), BusError>;

    fn handle(&mut self, request: StandStill, context: &mut Context<Self>) -> Self::Result {
        let until = async move { drop(request.0.await) };
        context.wait(until.into_actor(self));
        Ok(())
    }
}

impl Handler<End> for Subject {
    type Result = Result<(), BusError>;

    fn handle(&mut self, request: End, context: &mut Context<Self>) -> Self::Result {
        if let Some(watch) = self.watch.as_ref().filter(|_| request.orderly) {
            watch.ends_cleanly();
        }
        context.stop();
        Ok(())
    }
}

/// The service under supervision.
pub struct Rig {
    pub port: SubjectPort,
    pub events: broadcast::Receiver<Event>,
    /// One item for every start.
    pub started: mpsc::UnboundedReceiver<Instant>,
    pub supervisor: JoinHandle<Result<(), CrashLoop>>,
}

impl Rig {
    pub fn new(throttle: Throttle) -> Self {
        let (port, events) = (SubjectPort::default(), Events::default());
        let subscribed = events.subscribe();
        let (tell, started) = mpsc::unbounded_channel();
        let bound = port.clone();
        let supervisor = spawn(supervise(NAME, throttle, events, move |watch| {
            bound.bind(&Actor::start(Subject {
                counted: 0,
                mailbox: None,
                watch: Some(watch),
            }));
            let _ = tell.send(Instant::now());
        }));
        Self {
            port,
            events: subscribed,
            started,
            supervisor,
        }
    }

    /// One whose service has been started.
    pub async fn at_work() -> Self {
        let mut rig = Self::new(Throttle {
            pause: Duration::from_millis(1),
            ..Throttle::default()
        });
        rig.started.recv().await.unwrap();
        rig
    }

    /// Waits for the event that tells of a restart.
    pub async fn restarted(&mut self) {
        let event = self.events.recv().await.unwrap();
        assert_eq!(event, Event::ServiceRestarted { service: NAME });
    }

    /// How the supervision ended.
    pub async fn ended(&mut self) -> Result<(), CrashLoop> {
        let ended = timeout(PATIENCE, &mut self.supervisor).await;
        ended.expect("it has ended").unwrap()
    }
}

/// Runs the test inside an actix system.
pub fn system<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    System::new().block_on(test());
}
