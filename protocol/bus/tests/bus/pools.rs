//! ACT-04: who has to block does so in a pool, where it holds up nobody and no more at once than allowed.

use std::{
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use cml_bus::{
    actor::{Actor, Context, Handler, ResponseFuture, spawn},
    blocking::{JobDied, Pool},
    error::BusError,
};
use tokio::{sync::oneshot, task::yield_now};

use super::rig::{Count, Subject, system};

/// How long the neighbour of the measured service blocks.
const BLOCK: Duration = Duration::from_millis(20);

/// Blocks, in the pool or in the handler.
#[derive(Debug)]
struct Block {
    in_pool: bool,
}

cml_bus::request!(Block => (), BusError, "pools.block", 60 s);

cml_bus::service_port! {
    /// What can be asked of the neighbour.
    NeighbourPort {
        block: Block,
    }
}

struct Neighbour(Pool);

impl Actor for Neighbour {
    type Context = Context<Self>;
}

impl Handler<Block> for Neighbour {
    type Result = ResponseFuture<Result<(), BusError>>;

    fn handle(&mut self, request: Block, _: &mut Context<Self>) -> Self::Result {
        let pool = self.0.clone();
        if request.in_pool {
            Box::pin(async move {
                let done = pool.run(|| thread::sleep(BLOCK)).await;
                done.map_err(|died| BusError::ServerDeath(died.0))
            })
        } else {
            thread::sleep(BLOCK);
            Box::pin(async { Ok(()) })
        }
    }
}

/// The median time of a call to one service while its neighbour blocks.
async fn median_beside(in_pool: bool) -> Duration {
    let subject = Subject::with_mailbox(16);
    let neighbour = NeighbourPort::default();
    neighbour.bind(&Neighbour(Pool::new("neighbour", 2)).start());
    let mut times = Vec::new();
    for _ in 0..15 {
        let block = neighbour.block.clone();
        let blocked = spawn(async move { block.call(Block { in_pool }).await });
        let asked = Instant::now();
        // The neighbour has its message before this service gets its own.
        yield_now().await;
        subject.count.call(Count).await.unwrap();
        times.push(asked.elapsed());
        blocked.await.unwrap().unwrap();
    }
    times.sort();
    times[times.len() / 2]
}

#[test]
fn work_in_a_pool_holds_up_no_other_service() {
    system(|| async {
        let in_handler = median_beside(false).await;
        let in_pool = median_beside(true).await;
        // Measured: 20 ms against 100 us, on a busy machine.
        assert!(
            in_pool * 4 < in_handler,
            "{in_pool:?} beside the pool, {in_handler:?} beside a handler that blocks"
        );
    });
}

#[test]
fn a_pool_runs_as_many_jobs_as_it_is_wide_and_never_more() {
    system(|| async {
        for width in [1, 2, 5] {
            let pool = Pool::new("wide", width);
            let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            // Opens when `width` jobs are there at the same time, so the jobs end only if they are.
            let together = Arc::new(Barrier::new(width));
            let jobs: Vec<_> = (0..20 * width)
                .map(|_| {
                    let (running, most) = (running.clone(), most.clone());
                    let (together, pool) = (together.clone(), pool.clone());
                    spawn(async move {
                        pool.run(move || {
                            let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                            most.fetch_max(now, Ordering::SeqCst);
                            together.wait();
                            running.fetch_sub(1, Ordering::SeqCst);
                        })
                        .await
                    })
                })
                .collect();
            for job in jobs {
                assert_eq!(job.await.unwrap(), Ok(()));
            }
            assert_eq!(most.load(Ordering::SeqCst), width);
        }
    });
}

#[test]
fn a_job_that_panics_is_reported_and_the_pool_goes_on() {
    system(|| async {
        let pool = Pool::new("storage", 2);
        for round in 0..10 {
            let died = pool.run(|| panic!("as asked: in a job")).await;
            assert_eq!(died, Err::<(), _>(JobDied("storage")));
            assert_eq!(pool.run(move || round).await, Ok(round));
        }
        assert!(JobDied("storage").to_string().contains("`storage`"));
    });
}

#[test]
fn a_job_whose_caller_went_away_keeps_its_place_until_it_is_done() {
    system(|| async {
        let pool = Pool::new("narrow", 1);
        let (tell, begun) = oneshot::channel();
        let (release, gate) = mpsc::channel::<()>();
        tokio::select! {
            biased;
            _ = pool.run(move || {
                let _ = tell.send(());
                let _ = gate.recv();
            }) => unreachable!("the gate is closed"),
            begun = begun => begun.unwrap(),
        }

        let ran = Arc::new(AtomicBool::new(false));
        let (other, flag) = (pool.clone(), ran.clone());
        let next =
            spawn(async move { other.run(move || flag.store(true, Ordering::SeqCst)).await });
        // Long enough for a job that does not wait to be seen.
        tokio::time::sleep(BLOCK).await;
        assert!(!ran.load(Ordering::SeqCst));

        release.send(()).unwrap();
        assert_eq!(next.await.unwrap(), Ok(()));
        assert!(ran.load(Ordering::SeqCst));
    });
}
