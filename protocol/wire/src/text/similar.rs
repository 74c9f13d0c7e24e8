//! What somebody who mistyped a word may have meant.

/// The most similar of the known words, if one is similar enough to be a slip.
pub fn similar(word: &str, known: &[String]) -> Option<String> {
    // As command line parsers do it: transposed and missing letters score high, other words below this.
    const ENOUGH: f64 = 0.8;
    // Comparing takes time that grows with both lengths, and no field has a longer name.
    if word.len() > 64 {
        return None;
    }
    let scored = known
        .iter()
        .map(|name| (strsim::jaro_winkler(word, name), name));
    let best = scored.max_by(|(one, _), (other, _)| one.total_cmp(other));
    best.filter(|(score, _)| *score > ENOUGH)
        .map(|(_, name)| name.clone())
}
