//! From the word that names a container to its UUID (protocol.md 4.2).

use std::io::{self, IsTerminal};

use cml_wire::proto::{
    ContainerStatus, DaemonToController, controller_to_daemon::Command, daemon_to_controller::Code,
};

use crate::{
    client::{self, Client, ClientError},
    exit,
    render::printable,
};

/// Fewest hex digits that stand for a UUID.
const SHORTEST: usize = 8;

/// Why there is no container to talk about.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// There is none.
    #[error("there is no container `{0}`; `control list` shows those that there are")]
    NotFound(String),
    /// The word fits more than one.
    #[error("`{word}` means {} containers; say which by its UUID: {}", uuids.len(), uuids.join(", "))]
    Ambiguous {
        /// What was typed.
        word: String,
        /// Of all that it fits.
        uuids: Vec<String>,
    },
    /// The daemon did not answer with a list.
    #[error("the daemon refused to list the containers")]
    Refused(Box<DaemonToController>),
    /// The daemon could not be asked.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// What the container is looked up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To be shown.
    Look,
    /// To be shown, if it is a unit, too.
    LookAtUnits,
    /// To be changed, or to have something done in it.
    Change,
}

/// The container that a word means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Lower case, with dashes.
    pub uuid: String,
    /// As configured.
    pub name: String,
    /// As on the wire, at that moment.
    pub state: i32,
}

/// Asks the daemon which container the word means. From then on the daemon's words about it name it as the
/// operator did.
///
/// # Errors
/// [`ResolveError`]
pub fn container(
    client: &mut Client,
    word: &str,
    purpose: Purpose,
) -> Result<Container, ResolveError> {
    let mut request = client::bare(Command::GetContainerStatus);
    request.system_services = (purpose == Purpose::LookAtUnits).then_some(true);
    let reply = client.call(request)?;
    if reply.code != i32::from(Code::ContainerStatus) {
        return Err(ResolveError::Refused(Box::new(reply)));
    }
    let found = find(&reply.container_status, word);
    let Some(first) = found.first() else {
        return Err(ResolveError::NotFound(printable(word)));
    };
    if found.len() > 1 {
        // Scripts are used to the first one (requirement.md); a person can say which, and a prefix is nothing
        // that an old script has.
        let person = purpose == Purpose::Change && io::stdin().is_terminal();
        if person || first.name != word {
            return Err(ResolveError::Ambiguous {
                word: printable(word),
                uuids: found.iter().map(|one| printable(&one.uuid)).collect(),
            });
        }
        let (count, uuid) = (found.len(), printable(&first.uuid));
        exit::complain(&format!(
            "warning: {count} containers are called `{}`; the first is meant, {uuid}",
            printable(word)
        ));
    }
    client.call_it(
        &first.uuid,
        match first.name == word {
            true => printable(word),
            false => format!("{} ({})", printable(&first.name), first.uuid),
        },
    );
    Ok(Container {
        uuid: first.uuid.clone(),
        name: first.name.clone(),
        state: first.state,
    })
}

/// All that a word fits, in list order. A word in the form of a UUID is never taken for a name; one that is the
/// beginning of a UUID only if nothing has that name.
fn find<'a>(all: &'a [ContainerStatus], word: &str) -> Vec<&'a ContainerStatus> {
    if let Some(digits) = uuid_digits(word) {
        let same = |one: &&ContainerStatus| uuid_digits(&one.uuid).as_ref() == Some(&digits);
        return all.iter().find(same).into_iter().collect();
    }
    let named: Vec<_> = all.iter().filter(|one| one.name == word).collect();
    if !named.is_empty() || !is_beginning(word) {
        return named;
    }
    let word = word.to_ascii_lowercase();
    all.iter()
        .filter(|one| one.uuid.to_ascii_lowercase().starts_with(&word))
        .collect()
}

fn is_beginning(word: &str) -> bool {
    let digits = word.bytes().filter(u8::is_ascii_hexdigit).count();
    digits >= SHORTEST
        && word
            .bytes()
            .all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
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
        find(&all(), word).first().map(|one| one.uuid.clone())
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
    fn the_beginning_of_a_uuid_is_enough_if_nothing_has_that_name() {
        assert_eq!(uuid_of("b51f6038").as_deref(), Some(A));
        assert_eq!(uuid_of("B51F6038-AA7E").as_deref(), Some(A));
        assert_eq!(uuid_of("b51f603"), None, "too short");
        assert_eq!(uuid_of("b51f6038-bb"), None);
        let mut all = all();
        all[2].name = "7c93917d".into();
        assert_eq!(find(&all, "7c93917d")[0].uuid, all[2].uuid);
        all[2].uuid = A.replace("f1", "f2");
        assert_eq!(find(&all, "b51f6038").len(), 2);
        assert_eq!(find(&all, "web").len(), 2);
    }

    #[test]
    fn words_that_are_no_ascii_are_names() {
        assert_eq!(uuid_of("ä".repeat(18).as_str()), None);
    }
}
