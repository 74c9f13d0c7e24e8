//! From the word that names a container to its UUID (protocol.md 4.2).

use cml_wire::proto::{
    ContainerStatus, DaemonToController, controller_to_daemon::Command, daemon_to_controller::Code,
};

use crate::client::{self, Client, ClientError};

/// Why there is no container to talk about.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// Scripts match this text, hence its form (protocol.md 5.1).
    #[error("Container with provided uuid/name does not exist!")]
    NotFound,
    /// The daemon did not answer with a list.
    #[error("the daemon refused to list the containers")]
    Refused(Box<DaemonToController>),
    /// The daemon could not be asked.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// The container that a word means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Lower case, with dashes.
    pub uuid: String,
    /// As configured.
    pub name: String,
}

/// Asks the daemon which container the word means.
///
/// # Errors
/// [`ResolveError`]
pub fn container(client: &mut Client, word: &str, units: bool) -> Result<Container, ResolveError> {
    let mut request = client::bare(Command::GetContainerStatus);
    request.system_services = units.then_some(true);
    let reply = client.call(request)?;
    if reply.code != i32::from(Code::ContainerStatus) {
        return Err(ResolveError::Refused(Box::new(reply)));
    }
    let found = find(&reply.container_status, word).ok_or(ResolveError::NotFound)?;
    Ok(Container {
        uuid: found.uuid.clone(),
        name: found.name.clone(),
    })
}

/// A word in the form of a UUID is never taken for a name.
fn find<'a>(all: &'a [ContainerStatus], word: &str) -> Option<&'a ContainerStatus> {
    match uuid_digits(word) {
        Some(digits) => all
            .iter()
            .find(|one| uuid_digits(&one.uuid).as_ref() == Some(&digits)),
        None => all.iter().find(|one| one.name == word),
    }
}

/// The UUID that a word is.
pub fn uuid(word: &str) -> Option<String> {
    uuid_digits(word)
}

/// The 32 digits of a UUID in either form: dashed, or at least 32 hex digits in a row.
fn uuid_digits(word: &str) -> Option<String> {
    const DASHES: [usize; 4] = [8, 13, 18, 23];
    let dashed = word.len() == 36
        && word.bytes().enumerate().all(|(at, byte)| match byte {
            b'-' => DASHES.contains(&at),
            byte => byte.is_ascii_hexdigit() && !DASHES.contains(&at),
        });
    let head = word.get(..32);
    let digits = if dashed {
        word.replace('-', "")
    } else {
        head.filter(|head| head.bytes().all(|byte| byte.is_ascii_hexdigit()))?
            .to_owned()
    };
    Some(digits.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "b51f6038-aa7e-4cc7-b93a-fe187ef218f1";
    const B: &str = "7c93917d-2948-48b1-80cd-f90af18a6cc3";

    fn all() -> Vec<ContainerStatus> {
        [
            (A, "web"),
            (B, "web"),
            ("00000000-0000-0000-0000-000000000000", A),
        ]
        .map(|(uuid, name)| ContainerStatus {
            uuid: uuid.into(),
            name: name.into(),
            ..Default::default()
        })
        .into()
    }

    fn uuid_of(word: &str) -> Option<String> {
        find(&all(), word).map(|one| one.uuid.clone())
    }

    #[test]
    fn the_first_exact_name_matches() {
        assert_eq!(uuid_of("web").as_deref(), Some(A));
        assert_eq!(uuid_of("WEB"), None);
        assert_eq!(uuid_of("we"), None);
        assert_eq!(uuid_of(""), None);
    }

    #[test]
    fn a_uuid_matches_in_every_form_and_before_a_name() {
        assert_eq!(uuid_of(B).as_deref(), Some(B));
        assert_eq!(uuid_of(&B.to_uppercase()).as_deref(), Some(B));
        assert_eq!(uuid_of(&B.replace('-', "")).as_deref(), Some(B));
        assert_eq!(uuid_of(&(B.replace('-', "") + "ff")).as_deref(), Some(B));
        assert_eq!(uuid_of(A).as_deref(), Some(A));
        assert_eq!(uuid_of("b51f6038aa7e-4cc7-b93a-fe187ef218f1-"), None);
        assert_eq!(uuid_of("11111111-1111-1111-1111-111111111111"), None);
    }

    #[test]
    fn words_that_are_no_ascii_are_names() {
        assert_eq!(uuid_of("ä".repeat(18).as_str()), None);
    }
}
