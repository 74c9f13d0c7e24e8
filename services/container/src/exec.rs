//! Commands in a container: bytes both ways between the command's terminal or pipes and a bounded pair of
//! channels (LIF-11, LIF-12).
//!
//! Neither side waits for the other, a full channel stops reading from the command, and when the command
//! has ended everything it wrote is delivered before its status.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

use cml_bus::{
    actor::spawn,
    api::container::{ExecInput, ExecOutput, ExecSession},
    blocking::Pool,
};
use cml_sys::{
    exec::{Running, Stdio, resize},
    ready::{AsyncFd, Interest, watch, watch_readable},
};
use rustix::termios::{LocalModes, SpecialCodeIndex, tcgetattr};
use tokio::{
    select,
    sync::{mpsc, watch as flag},
    task::JoinSet,
    time::timeout,
};

/// Bytes moved at once: the capacity of a terminal's buffer is 4 KiB, that of a pipe 64 KiB.
const CHUNK: usize = 16 * 1024;
/// Items in each direction: 256 KiB of output per session at most.
const ITEMS: usize = 16;
/// How long a command may take to end after its terminal hung up, before it is killed.
const HANG_UP_PATIENCE: Duration = Duration::from_secs(1);
/// The status when nobody could wait for the command.
const UNKNOWN: i32 = 255;
type Shared = Arc<AsyncFd<File>>;
/// A descriptor that the command writes to, and what its bytes become.
type Output = (Shared, fn(Vec<u8>) -> ExecOutput);

/// Where the command talks, ready for the event loop.
struct Ends {
    input: Shared,
    outputs: Vec<Output>,
    terminal: bool,
}

impl Ends {
    fn new(stdio: Stdio) -> io::Result<Self> {
        let share = |file, interest| watch(file, interest).map(Arc::new);
        match stdio {
            Stdio::Terminal(master) => {
                let master = share(master, Interest::READABLE | Interest::WRITABLE)?;
                Ok(Self {
                    input: master.clone(),
                    outputs: vec![(master, ExecOutput::Stdout)],
                    terminal: true,
                })
            }
            Stdio::Pipes {
                stdin,
                stdout,
                stderr,
            } => Ok(Self {
                input: share(stdin, Interest::WRITABLE)?,
                outputs: vec![
                    (share(stdout, Interest::READABLE)?, ExecOutput::Stdout),
                    (share(stderr, Interest::READABLE)?, ExecOutput::Stderr),
                ],
                terminal: false,
            }),
        }
    }
}

/// Connects a running command with a session for its client.
///
/// # Errors
/// The event loop takes no more descriptors; the command is killed then.
pub fn session(running: Running, pool: Pool) -> io::Result<ExecSession> {
    let Running { stdio, waiter } = running;
    let prepared =
        Ends::new(stdio).and_then(|ends| Ok((ends, watch_readable(waiter.status_fd())?)));
    let (ends, status) = prepared.inspect_err(|_| waiter.kill())?;
    let (input, for_command) = mpsc::channel(ITEMS);
    let (to_client, output) = mpsc::channel(ITEMS);
    spawn(async move {
        let end = relay(ends, status, for_command, &to_client).await;
        let code = pool.run(move || {
            if end == End::Forced {
                waiter.kill();
            }
            waiter.status()
        });
        let code = code.await;
        let exit = ExecOutput::Exit(code.unwrap_or(UNKNOWN));
        let _ = to_client.send(exit).await;
    });
    Ok(ExecSession { input, output })
}

/// How a command comes to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It has ended.
    ByItself,
    /// It must be killed, with what it has started.
    Forced,
}

/// Moves bytes until the command has ended and all its output was taken, or the client is gone and the
/// command was told so.
async fn relay(
    ends: Ends,
    status: AsyncFd<OwnedFd>,
    for_command: mpsc::Receiver<ExecInput>,
    to_client: &mpsc::Sender<ExecOutput>,
) -> End {
    let terminal = ends.terminal;
    let (ended, has_ended) = flag::channel(false);
    let feeder = spawn(feed(ends.input, ends.terminal, for_command));
    let mut outputs = JoinSet::new();
    for (file, item) in ends.outputs {
        outputs.spawn_local(deliver(file, item, to_client.clone(), has_ended.clone()));
    }
    let client_is_there = select! {
        biased;
        _ = status.readable() => true,
        () = to_client.closed() => false,
    };
    if client_is_there {
        ended.send_replace(true);
        while outputs.join_next().await.is_some() {}
    } else {
        outputs.shutdown().await;
    }
    feeder.abort();
    // Ends at once; only then nothing holds the terminal any more, and the command's session hears it.
    let _ = feeder.await;
    if client_is_there {
        return End::ByItself;
    }
    let heard = timeout(HANG_UP_PATIENCE, status.readable()).await.is_ok();
    // What has heard a terminal hang up and stays has chosen so; pipes tell nobody but who uses them.
    match heard && terminal {
        true => End::ByItself,
        false => End::Forced,
    }
}

/// Delivers what the command writes, in order, waiting for the client where it is slow.
async fn deliver(
    file: Shared,
    item: fn(Vec<u8>) -> ExecOutput,
    to_client: mpsc::Sender<ExecOutput>,
    mut ended: flag::Receiver<bool>,
) {
    let mut buffer = vec![0; CHUNK];
    loop {
        // Asked before reading: what the command wrote before it ended is there then.
        let last = *ended.borrow_and_update();
        let read = if last {
            let mut file = file.get_ref();
            file.read(&mut buffer)
        } else {
            let ready = select! {
                ready = file.readable() => ready,
                changed = ended.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            };
            let Ok(mut ready) = ready else { return };
            match ready.try_io(|file| file.get_ref().read(&mut buffer)) {
                Ok(read) => read,
                Err(_) => continue,
            }
        };
        match read {
            Ok(0) => return,
            Ok(length) => {
                let item = item(buffer[..length].to_vec());
                if to_client.send(item).await.is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // EIO is how a terminal says that nobody holds its other side. WouldBlock comes here only after
            // the end of the command: a process that outlives it may hold the other side for ever.
            Err(_) => return,
        }
    }
}

/// Passes the client's input on until it ends. Dropping the descriptor is the end of input for a pipe.
async fn feed(file: Shared, terminal: bool, mut for_command: mpsc::Receiver<ExecInput>) {
    let mut in_line = false;
    while let Some(input) = for_command.recv().await {
        let written = match input {
            ExecInput::Data(bytes) => {
                in_line = bytes.last().map_or(in_line, |last| !b"\r\n".contains(last));
                write_all(&file, &bytes).await
            }
            ExecInput::Eof if terminal => {
                write_all(&file, &end_of_input(file.get_ref(), in_line)).await
            }
            ExecInput::Eof => return,
            ExecInput::Resize(size) => {
                if terminal && let Err(error) = resize(file.get_ref(), size.cols, size.rows) {
                    tracing::debug!(%error, "a terminal was not resized");
                }
                Ok(())
            }
        };
        // The command closed its input or is gone; its output and status are still wanted.
        if written.is_err() {
            return;
        }
    }
}

/// What says the end of input to a terminal: the key that the command has chosen for it, twice behind a line that has
/// not ended, as the first one only ends that. A program that reads single keys knows no end.
fn end_of_input(terminal: &File, in_line: bool) -> Vec<u8> {
    let Ok(modes) = tcgetattr(terminal) else {
        return Vec::new();
    };
    let keys = match (modes.local_modes.contains(LocalModes::ICANON), in_line) {
        (false, _) => 0,
        (true, false) => 1,
        (true, true) => 2,
    };
    vec![modes.special_codes[SpecialCodeIndex::VEOF]; keys]
}

async fn write_all(file: &Shared, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let write = |mut file: &File| file.write(bytes);
        let length = file
            .async_io(Interest::WRITABLE, |file| write(file))
            .await?;
        bytes = &bytes[length..];
    }
    Ok(())
}
