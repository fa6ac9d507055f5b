//! Text as words, numbers, blanks and single characters.

/// Splits text into pieces whose concatenation is the text.
pub(crate) fn split(text: &[u8]) -> Vec<Vec<u8>> {
    #[derive(PartialEq)]
    enum Kind {
        Word,
        Blank,
        Sign,
    }
    let kind = |byte: u8| match byte {
        b' ' | b'\t' => Kind::Blank,
        b'_' | b'-' | b'.' | b'$' => Kind::Word,
        byte if byte.is_ascii_alphanumeric() || !byte.is_ascii() => Kind::Word,
        _ => Kind::Sign,
    };
    let pieces = text.chunk_by(|one, next| kind(*one) != Kind::Sign && kind(*one) == kind(*next));
    pieces.map(<[u8]>::to_vec).collect()
}
