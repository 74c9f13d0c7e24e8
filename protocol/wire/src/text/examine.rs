//! A text with everything that is wrong with it.

use prost::{Message, Name};

use super::{TextError, descriptor, reader, survey::Survey, typed};

/// A message as far as its text can be understood.
#[derive(Debug)]
pub struct Examined<M> {
    /// What could be read.
    pub message: M,
    /// What is wrong with the form of the text, in the order of the lines. Values are not looked at further
    /// than their type: see [`crate::rules`].
    pub mistakes: Vec<TextError>,
    survey: Survey,
}

impl<M> Examined<M> {
    /// Line and column, from 1, of the value at a path such as `vnet_configs[1].if_name`. `None` if the text
    /// does not have it.
    #[must_use]
    pub fn locate(&self, path: &str) -> Option<(usize, usize)> {
        let place = self.survey.place(path)?;
        Some((place.line, place.column))
    }

    /// Settings that are given more than once: the path, and the line of the value that counts instead of an earlier one.
    pub fn overruled(&self) -> impl Iterator<Item = (&str, usize)> {
        let all = self.survey.overruled.iter();
        all.map(|(path, place)| (path.as_str(), place.line))
    }

    /// Line and column, from 1, of the end of the text.
    #[must_use]
    pub fn end(&self) -> (usize, usize) {
        (self.survey.end.line, self.survey.end.column)
    }
}

/// Reads a message to the end of the text, whatever is wrong with it.
#[must_use]
pub fn examine<M: Message + Name + Default>(text: &[u8]) -> Examined<M> {
    let (message, mut survey) = reader::survey(&descriptor::<M>(), text);
    let mut mistakes = std::mem::take(&mut survey.mistakes);
    mistakes.sort_by_key(|mistake| (mistake.line, mistake.column));
    Examined {
        message: typed(&message),
        mistakes,
        survey,
    }
}
