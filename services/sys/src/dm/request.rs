//! One request to the device mapper: a buffer with a header in front, sent by an ioctl (linux/dm-ioctl.h).

use std::{fs::File, io, os::fd::AsRawFd};

use zeroize::Zeroizing;

use super::Target;
use crate::error::{Context, Error, Result};

/// The first version of the interface that wipes its copies of a table; an older kernel refuses it.
const VERSION: [u32; 3] = [4, 20, 0];
const READ_ONLY: u32 = 1 << 0;
const BUFFER_FULL: u32 = 1 << 8;
const SECURE_DATA: u32 = 1 << 15;
const DEFERRED_REMOVE: u32 = 1 << 17;

/// Bytes of a name with the zero behind it.
const NAME: usize = 128;
/// Bytes of a UUID with the zero behind it.
const UUID: usize = 129;
/// Room for answers at first, and at most.
const ANSWER: usize = 4 << 10;
const ANSWER_LIMIT: usize = 4 << 20;

/// What is asked for: the numbers of linux/dm-ioctl.h.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
pub(super) enum Command {
    ListDevices = 2,
    DevCreate = 3,
    DevRemove = 4,
    DevSuspend = 6,
    DevStatus = 7,
    TableLoad = 9,
    TableStatus = 12,
    ListVersions = 13,
    GetTargetVersion = 17,
}

impl Command {
    fn opcode(self) -> rustix::ioctl::Opcode {
        rustix::ioctl::opcode::read_write::<Header>(0xfd, self as u8)
    }
}

/// `struct dm_ioctl`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    pub(super) target_count: u32,
    open_count: i32,
    flags: u32,
    event_number: u32,
    padding: u32,
    pub(super) device: u64,
    name: [u8; NAME],
    uuid: [u8; UUID],
    data: [u8; 7],
}

/// `struct dm_target_spec`; the parameters follow, with a zero behind them.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct TargetSpec {
    start: u64,
    length: u64,
    status: i32,
    next: u32,
    kind: [u8; 16],
}

const HEADER: usize = size_of::<Header>();
const SPEC: usize = size_of::<TargetSpec>();
const WORD: usize = size_of::<u64>();
const _: () = assert!(HEADER == 312 && SPEC == 40);
// The buffer is made of words, which must serve both structures, one behind the other.
const _: () = assert!(align_of::<Header>() <= WORD && align_of::<TargetSpec>() <= WORD);
const _: () = assert!(HEADER.is_multiple_of(WORD) && SPEC.is_multiple_of(WORD));

/// A request, and after [`Request::send`] its answer. Wiped when it goes away.
pub(super) struct Request {
    words: Zeroizing<Vec<u64>>,
    subject: String,
}

impl Request {
    /// A request about a device or a target, or with an empty name about neither.
    ///
    /// # Errors
    /// The name cannot be one of a device.
    pub(super) fn about(name: &str) -> Result<Self> {
        let header = Header {
            version: VERSION,
            data_size: 0,
            data_start: HEADER as u32,
            target_count: 0,
            open_count: 0,
            flags: 0,
            event_number: 0,
            padding: 0,
            device: 0,
            name: text(name, "a name")?,
            uuid: [0; UUID],
            data: [0; 7],
        };
        let mut request = Self {
            words: Zeroizing::new(vec![0; HEADER / WORD]),
            subject: name.to_owned(),
        };
        *request.header_mut() = header;
        Ok(request)
    }

    /// Gives the device a second name that outlives renaming.
    ///
    /// # Errors
    /// It cannot be a UUID.
    pub(super) fn uuid(&mut self, uuid: &str) -> Result<()> {
        self.header_mut().uuid = text(uuid, "a UUID")?;
        Ok(())
    }

    /// The device can only be read.
    pub(super) fn read_only(&mut self, read_only: bool) {
        if read_only {
            self.header_mut().flags |= READ_ONLY;
        }
    }

    /// A device that is in use is removed by its last user.
    pub(super) fn deferred(&mut self) {
        self.header_mut().flags |= DEFERRED_REMOVE;
    }

    /// What the kernel says in `DM_COOKIE` of the event it sends.
    pub(super) fn cookie(&mut self, cookie: u32) {
        self.header_mut().event_number = cookie;
    }

    /// Adds the one target of a table, and has the kernel wipe its copies of it.
    ///
    /// # Errors
    /// The table is longer than anything the kernel would take.
    pub(super) fn table(&mut self, sectors: u64, target: &Target) -> Result<()> {
        let parameters = target.parameters().as_bytes();
        let length = (SPEC + parameters.len() + 1).next_multiple_of(WORD);
        let next = u32::try_from(length).map_err(|_| self.error("the table is too long"))?;
        // A new buffer, for one that grows leaves a copy behind; the old one holds no key.
        let mut words = vec![0; (HEADER + length) / WORD];
        words[..HEADER / WORD].copy_from_slice(&self.words[..HEADER / WORD]);
        self.words = Zeroizing::new(words);
        let spec = TargetSpec {
            start: 0,
            length: sectors,
            status: 0,
            next,
            kind: text(target.kind(), "a target")?,
        };
        // SAFETY: the buffer has room for a `TargetSpec` behind the header, in words of its alignment.
        unsafe {
            self.words
                .as_mut_ptr()
                .add(HEADER / WORD)
                .cast::<TargetSpec>()
                .write(spec);
        }
        self.data_mut()[SPEC..SPEC + parameters.len()].copy_from_slice(parameters);
        let header = self.header_mut();
        header.target_count = 1;
        header.flags |= SECURE_DATA;
        Ok(())
    }

    /// Makes room for an answer.
    pub(super) fn expect_answer(&mut self) {
        self.words.resize((HEADER + ANSWER) / WORD, 0);
    }

    /// Sends the request; the answer is then in [`Request::header`] and [`Request::data`].
    ///
    /// # Errors
    /// What the kernel said, untouched.
    pub(super) fn send(&mut self, control: &File, command: Command) -> io::Result<()> {
        let question = *self.header();
        loop {
            let size = self.words.len() * WORD;
            let header = self.header_mut();
            *header = question;
            header.data_size = u32::try_from(size).map_err(io::Error::other)?;
            // SAFETY: the buffer is live, as long as its header says, and the kernel writes no further.
            let done = unsafe {
                libc::ioctl(
                    control.as_raw_fd(),
                    command.opcode() as libc::Ioctl,
                    self.words.as_mut_ptr(),
                )
            };
            if done < 0 {
                return Err(io::Error::last_os_error());
            }
            if self.header().flags & BUFFER_FULL == 0 {
                return Ok(());
            }
            if size >= ANSWER_LIMIT {
                return Err(io::Error::other("the answer is too long"));
            }
            let doubled = self.words.len() * 2;
            self.words.resize(doubled, 0);
        }
    }

    /// The header, of the question or of the answer.
    pub(super) fn header(&self) -> &Header {
        // SAFETY: the buffer is at least a header long and aligned for it, and every pattern of bits is
        // a valid header.
        unsafe { &*self.words.as_ptr().cast::<Header>() }
    }

    fn header_mut(&mut self) -> &mut Header {
        // SAFETY: as in `header`; the borrow is exclusive.
        unsafe { &mut *self.words.as_mut_ptr().cast::<Header>() }
    }

    /// What follows the header in an answer.
    pub(super) fn data(&self) -> &[u8] {
        let header = self.header();
        let (start, size) = (header.data_start as usize, header.data_size as usize);
        // SAFETY: words are bytes, all of them initialised.
        let bytes = unsafe {
            std::slice::from_raw_parts(self.words.as_ptr().cast::<u8>(), self.words.len() * WORD)
        };
        bytes.get(start..size).unwrap_or_default()
    }

    fn data_mut(&mut self) -> &mut [u8] {
        // SAFETY: words are bytes, all of them initialised, and the borrow is exclusive.
        let bytes = unsafe {
            std::slice::from_raw_parts_mut(
                self.words.as_mut_ptr().cast::<u8>(),
                self.words.len() * WORD,
            )
        };
        &mut bytes[HEADER..]
    }

    /// The status text of the first target in the answer.
    pub(super) fn status(&self) -> String {
        match self.header().target_count {
            0 => String::new(),
            _ => until_zero(self.data().get(SPEC..).unwrap_or_default()),
        }
    }

    fn error(&self, why: &str) -> Error {
        Error::invalid("ask device mapper for", &self.subject, why)
    }

    /// As [`Request::send`], with words for what was attempted.
    ///
    /// # Errors
    /// What the kernel said.
    pub(super) fn perform(
        &mut self,
        control: &File,
        command: Command,
        action: &'static str,
    ) -> Result<()> {
        self.send(control, command).context(action, &self.subject)
    }
}

/// A text in a field of the header, with at least one zero behind it.
fn text<const N: usize>(value: &str, what: &str) -> Result<[u8; N]> {
    let bytes = value.as_bytes();
    if bytes.len() >= N || bytes.contains(&0) || bytes.contains(&b'/') {
        let why = format!(
            "{what} has at most {} bytes, none of them a slash or zero",
            N - 1
        );
        return Err(Error::invalid("name", value, &why));
    }
    let mut field = [0; N];
    field[..bytes.len()].copy_from_slice(bytes);
    Ok(field)
}

/// The text in front of the first zero.
pub(super) fn until_zero(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// Walks a list of records, each of which begins at `next` bytes behind the one before; zero ends it.
pub(super) fn records(
    bytes: &[u8],
    next: impl Fn(&[u8]) -> Option<u32>,
) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let record = rest.filter(|record| !record.is_empty())?;
        rest = next(record)
            .filter(|offset| *offset != 0)
            .and_then(|offset| record.get(offset as usize..));
        Some(record)
    })
}

/// The number at an offset of a record.
pub(super) fn u32_at(record: &[u8], offset: usize) -> Option<u32> {
    let (bytes, _) = record.get(offset..)?.split_first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use super::*;

    #[test]
    fn opcodes_are_those_of_the_header_file() {
        assert_eq!(Command::ListDevices.opcode(), 0xc138_fd02);
        assert_eq!(Command::GetTargetVersion.opcode(), 0xc138_fd11);
    }

    #[test]
    fn a_table_stands_behind_the_header_and_ends_in_a_zero() {
        let target = Target::crypt(Path::new("/dev/loop0"), &[0x5a; 64]).unwrap();
        let mut request = Request::about("name").unwrap();
        request.read_only(true);
        request.table(2048, &target).unwrap();
        let header = *request.header();
        assert_eq!(header.target_count, 1);
        assert_eq!(header.flags, READ_ONLY | SECURE_DATA);
        assert!(header.name.starts_with(b"name\0"));
        let data = request.data_mut();
        assert_eq!(data[..8], [0; 8]);
        assert_eq!(data[8..16], 2048_u64.to_ne_bytes());
        assert_eq!(data[20..24], (data.len() as u32).to_ne_bytes());
        assert_eq!(until_zero(&data[24..40]), "crypt");
        assert_eq!(until_zero(&data[40..]), target.parameters());
        assert_eq!(data.last(), Some(&0));
        assert!(data.len().is_multiple_of(8));
    }

    #[test]
    fn names_that_the_kernel_would_cut_or_take_for_paths_are_refused() {
        let longest = "n".repeat(127);
        assert!(Request::about(&longest).is_ok());
        assert!(Request::about(&format!("{longest}n")).is_err());
        assert!(Request::about("a/b").is_err());
        assert!(Request::about("a\0b").is_err());
        let mut request = Request::about("a").unwrap();
        assert!(request.uuid(&"u".repeat(128)).is_ok());
        assert!(request.uuid(&"u".repeat(129)).is_err());
    }

    #[test]
    fn a_list_ends_at_its_last_record_whatever_the_offsets_say() {
        let next = |record: &[u8]| u32_at(record, 0);
        let mut list = Vec::new();
        list.extend_from_slice(&8_u32.to_ne_bytes());
        list.extend_from_slice(b"one\0");
        list.extend_from_slice(&0_u32.to_ne_bytes());
        list.extend_from_slice(b"two\0");
        let names = |list: &[u8]| -> Vec<String> {
            records(list, next)
                .map(|record| until_zero(record.get(4..).unwrap_or_default()))
                .collect()
        };
        assert_eq!(names(&list), ["one", "two"]);
        list[8..12].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(names(&list), ["one", "two"]);
        assert_eq!(names(&list[..10]), ["one", ""]);
        assert!(names(&[]).is_empty());
    }
}
