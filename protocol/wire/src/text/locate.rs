//! Where a field stands in a text that was parsed already, for mistakes that only its reader can see.

use super::lexer::{Lexer, Token};

/// Line and column, from 1, of the last value of a field of the outermost message. `None` if it has none, or the
/// text is not well-formed.
#[must_use]
pub fn locate(text: &[u8], field: &str) -> Option<(usize, usize)> {
    let mut lexer = Lexer::new(text);
    let (mut depth, mut named, mut found) = (0_usize, false, None);
    loop {
        let (token, at) = lexer.next().ok()?;
        match token {
            Token::End => return found,
            Token::Mark('{' | '<') => depth += 1,
            Token::Mark('}' | '>') => depth = depth.saturating_sub(1),
            // Between a name and its value.
            Token::Mark(':') => continue,
            Token::Mark(_) => {}
            Token::Word(_) | Token::Quoted(_) if named => found = Some((at.line, at.column)),
            Token::Word(word) if depth == 0 && word == field => {
                named = true;
                continue;
            }
            Token::Word(_) | Token::Quoted(_) => {}
        }
        named = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_of_a_field_is_found_and_nothing_that_looks_like_it() {
        let text = b"a: 1 # x: 9\nb: \"x: 8\"\nc { x: 7 }\n  x:\n 6\n";
        assert_eq!(locate(text, "x"), Some((5, 2)));
        assert_eq!(locate(text, "b"), Some((2, 4)));
        assert_eq!(locate(b"x: x y: 1", "x"), Some((1, 4)));
        assert_eq!(locate(b"x: 1\nx: 2", "x"), Some((2, 4)));
        assert_eq!(locate(text, "z"), None);
        assert_eq!(locate(b"x: \"", "x"), None);
    }
}
