//! Log files: a new one each day and whenever one is full, and only so many of them (protocol.md 7.6).
//!
//! A device that nobody looks after must not fill up, whatever its guests make it say. A symlink beside the files
//! says which one is being written, so that nobody deletes that.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use tracing_subscriber::fmt::MakeWriter;

/// Before the date in a name.
const PREFIX: &str = "cml-daemon";
/// Points at the file that is being written.
const CURRENT: &str = "cml-daemon.current";
/// 8 MiB: a quiet device writes less in a month.
pub const SIZE: u64 = 8 << 20;
/// Two weeks of a device that is not quiet; 112 MiB at most.
pub const KEPT: usize = 14;

/// Where the log goes.
#[derive(Debug)]
pub struct LogFiles {
    dir: PathBuf,
    size: u64,
    now: fn() -> u64,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// Days after 1970.
    day: u64,
    written: u64,
}

impl LogFiles {
    /// Goes on with the newest file of today.
    ///
    /// # Errors
    /// The directory cannot be made, read or written.
    pub fn open(dir: &Path) -> io::Result<Self> {
        Self::with(dir, SIZE, seconds)
    }

    fn with(dir: &Path, size: u64, now: fn() -> u64) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let day = now() / DAY;
        let last = names(dir)?.into_iter().rfind(|name| of_day(name, day));
        let name = last.unwrap_or_else(|| first_name(day));
        Ok(Self {
            dir: dir.to_owned(),
            size,
            now,
            open: Mutex::new(Open::new(dir, &name, day)?),
        })
    }

    /// The file to be written now, another one if the day is over or it is full.
    fn turn(&self, open: &mut Open, length: usize) -> io::Result<()> {
        let day = (self.now)() / DAY;
        let full = open.written > 0 && open.written + length as u64 > self.size;
        if day == open.day && !full {
            return Ok(());
        }
        *open = Open::new(&self.dir, &next_name(&names(&self.dir)?, day), day)?;
        Ok(())
    }
}

impl Open {
    fn new(dir: &Path, name: &str, day: u64) -> io::Result<Self> {
        let file = cml_sys::file::touch(&dir.join(name), 0o640).map_err(|error| error.source)?;
        let written = file.metadata()?.len();
        point_at(dir, name)?;
        thin_out(dir, name)?;
        Ok(Self { file, day, written })
    }
}

/// One rename, so that there is always a file that is known to be written.
fn point_at(dir: &Path, name: &str) -> io::Result<()> {
    let temporary = dir.join(format!(".{CURRENT}.new"));
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(name, &temporary)?;
    fs::rename(&temporary, dir.join(CURRENT))
}

/// Deletes the oldest files. One that cannot be deleted is no reason not to log.
fn thin_out(dir: &Path, current: &str) -> io::Result<()> {
    let names = names(dir)?;
    let surplus = names.len().saturating_sub(KEPT);
    for name in names.iter().filter(|name| *name != current).take(surplus) {
        let _ = fs::remove_file(dir.join(name));
    }
    Ok(())
}

/// Our files, oldest first.
fn names(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if let Some(name) = entry.file_name().to_str()
            && is_file
            && name
                .strip_prefix(PREFIX)
                .is_some_and(|rest| rest.starts_with('.'))
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

const DAY: u64 = 24 * 60 * 60;

fn seconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

/// `cml-daemon.2026-01-31`
fn first_name(day: u64) -> String {
    let (year, month, day) = date(day);
    format!("{PREFIX}.{year:04}-{month:02}-{day:02}")
}

fn of_day(name: &str, day: u64) -> bool {
    let rest = name.strip_prefix(&first_name(day));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The next one of a day: `cml-daemon.2026-01-31`, then `….0001`, so that names sort as they were written.
fn next_name(names: &[String], day: u64) -> String {
    let first = first_name(day);
    let number = |name: &String| match name.strip_prefix(&first)? {
        "" => Some(0),
        rest => rest.strip_prefix('.')?.parse::<u32>().ok(),
    };
    match names.iter().filter_map(number).max() {
        None => first,
        Some(last) => format!("{first}.{:04}", last.saturating_add(1)),
    }
}

/// Year, month and day of a day after 1970-01-01, Gregorian. From the first of March on, the months of a year have a
/// regular length, so years are counted from there.
fn date(days: u64) -> (u64, u64, u64) {
    // Days after 0000-03-01; 146097 days are 400 years.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let of_month = day - (153 * month + 2) / 5 + 1;
    let year = 400 * era + year + u64::from(month >= 10);
    (year, (month + 2) % 12 + 1, of_month)
}

/// Writes one line.
#[derive(Debug)]
pub struct Line<'a>(&'a LogFiles);

impl Write for Line<'_> {
    /// A file that cannot be turned is written on: a line too many is better than none.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        let turned = self.0.turn(&mut open, bytes.len());
        open.file.write_all(bytes)?;
        open.written += bytes.len() as u64;
        turned.map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogFiles {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::cell::Cell;

    use super::*;

    thread_local!(static NOW: Cell<u64> = const { Cell::new(0) });

    fn now() -> u64 {
        NOW.get()
    }

    fn listed(dir: &Path) -> Vec<(String, String)> {
        let content = |name: String| {
            let text = fs::read_to_string(dir.join(&name)).unwrap();
            (name, text)
        };
        names(dir).unwrap().into_iter().map(content).collect()
    }

    #[test]
    fn days_have_their_dates() {
        for (days, expected) in [
            (0, (1970, 1, 1)),
            (58, (1970, 2, 28)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (11_017, (2000, 3, 1)),
            (20_453, (2025, 12, 31)),
            (20_454, (2026, 1, 1)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
        ] {
            assert_eq!(date(days), expected);
        }
    }

    #[test]
    fn a_file_ends_with_the_day_or_when_it_is_full_and_a_restart_goes_on_with_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let write = |files: &LogFiles, text: &str| {
            files.make_writer().write_all(text.as_bytes()).unwrap();
        };
        let open = || LogFiles::with(dir, 10, now).unwrap();
        let files = open();
        for text in [
            "12345\n",
            "123\n",
            "x\n",
            "a line that is too long\n",
            "y\n",
        ] {
            write(&files, text);
        }
        drop(files);
        let files = open();
        write(&files, "z\n");
        NOW.set(DAY);
        write(&files, "new day\n");
        let name = |name: &str| format!("cml-daemon.1970-01-{name}");
        let expected = [
            (name("01"), "12345\n123\n"),
            (name("01.0001"), "x\n"),
            (name("01.0002"), "a line that is too long\n"),
            (name("01.0003"), "y\nz\n"),
            (name("02"), "new day\n"),
        ];
        let expected = expected.map(|(name, text)| (name, text.to_owned()));
        assert_eq!(listed(dir), expected);
        let current = fs::read_link(dir.join(CURRENT)).unwrap();
        assert_eq!(current, Path::new(&name("02")));
    }

    #[test]
    fn only_the_newest_files_are_kept_and_others_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cml-scd.2020-01-01"), "x").unwrap();
        let files = LogFiles::with(dir.path(), 1, now).unwrap();
        for _ in 0..KEPT * 2 {
            files.make_writer().write_all(b"line\n").unwrap();
        }
        let names = names(dir.path()).unwrap();
        assert_eq!(names.len(), KEPT);
        assert!(
            names
                .last()
                .unwrap()
                .ends_with(&format!(".{:04}", KEPT * 2 - 1))
        );
        assert!(dir.path().join("cml-scd.2020-01-01").exists());
    }
}
