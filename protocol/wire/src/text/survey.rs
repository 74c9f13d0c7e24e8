//! All mistakes of a text, and where its fields stand.

use std::collections::{BTreeMap, BTreeSet};

use super::{TextError, lexer::Place};

/// More mistakes than anybody mends in one go: the file is most likely something else.
const MISTAKES_MAX: usize = 100;

/// What was found while reading a text to its end.
#[derive(Debug, Default)]
pub struct Survey {
    pub mistakes: Vec<TextError>,
    /// Where the text ends.
    pub end: Place,
    /// Paths of values that a later one has replaced, and where that stands.
    pub overruled: Vec<(String, Place)>,
    /// By path, such as `vnet_configs[1].if_name`.
    places: BTreeMap<String, Place>,
    /// The paths of values that could not be read.
    broken: BTreeSet<String>,
    /// The path of the message that is being read, and how long it was before each of its parts.
    here: String,
    outer: Vec<usize>,
}

impl Survey {
    /// Takes a mistake down; an error once there are too many.
    pub fn note(&mut self, mistake: TextError) -> Result<(), TextError> {
        self.mistakes.push(mistake.clone());
        match self.mistakes.len() < MISTAKES_MAX {
            true => Ok(()),
            false => Err(mistake),
        }
    }

    /// The value of a field of the present message stands here.
    pub fn enter(&mut self, field: &str, index: Option<usize>, at: Place) {
        let path = self.path(field, index);
        self.outer.push(self.here.len());
        self.places.insert(path.clone(), at);
        self.here = path;
    }

    /// Everything about that field was read, or could not be.
    pub fn leave(&mut self, read: bool) {
        if !read {
            self.places.remove(&self.here);
            self.broken.insert(self.here.clone());
        }
        if let Some(length) = self.outer.pop() {
            self.here.truncate(length);
        }
    }

    /// The value of a field of the present message takes the place of an earlier one; its name stands here.
    pub fn overrule(&mut self, field: &str, at: Place) {
        self.overruled.push((self.path(field, None), at));
    }

    fn path(&self, field: &str, index: Option<usize>) -> String {
        let dot = if self.here.is_empty() { "" } else { "." };
        let index = index.map(|index| format!("[{index}]")).unwrap_or_default();
        format!("{}{dot}{field}{index}", self.here)
    }

    /// Whether a field of the present message has a value that could not be read.
    pub fn is_broken(&self, field: &str) -> bool {
        self.broken.contains(&self.path(field, None))
    }

    /// Where the value at this path stands.
    pub fn place(&self, path: &str) -> Option<Place> {
        self.places.get(path).copied()
    }
}
