//! Searching logs and files for secrets, in every form in which a program is likely to write bytes.

use std::collections::HashMap;

use memchr::memmem;

/// Bytes of a piece of a secret that is enough to call it found.
const PIECE: usize = 16;

/// What must not be found.
pub(crate) struct Secrets {
    texts: Vec<(String, Vec<u8>)>,
    pieces: HashMap<[u8; PIECE], String>,
    /// Which first three bytes pieces have, one bit each: what is no piece is passed over quickly.
    starts: Vec<u64>,
}

impl Default for Secrets {
    fn default() -> Self {
        Self { texts: Vec::new(), pieces: HashMap::new(), starts: vec![0; 1 << 18] }
    }
}

/// Where the bit of a piece's first three bytes is.
fn start(piece: &[u8]) -> (usize, u64) {
    let number = usize::from(piece[0]) << 16 | usize::from(piece[1]) << 8 | usize::from(piece[2]);
    (number >> 6, 1 << (number & 63))
}

impl Secrets {
    /// A text, or bytes that are looked for as a whole.
    pub(crate) fn text(&mut self, name: &str, text: impl Into<Vec<u8>>) {
        self.texts.push((name.to_owned(), text.into()));
    }

    /// Bytes of which every piece that looks random is secret.
    pub(crate) fn bytes(&mut self, name: &str, bytes: &[u8]) {
        for piece in bytes.windows(PIECE).filter(|piece| is_random(piece)) {
            let (word, bit) = start(piece);
            self.starts[word] |= bit;
            let piece = piece.try_into().unwrap();
            self.pieces.entry(piece).or_insert_with(|| name.to_owned());
        }
    }

    /// Bytes that everybody may see, though they lie among secrets.
    pub(crate) fn public(&mut self, bytes: &[u8]) {
        for piece in bytes.windows(PIECE) {
            let (word, bit) = start(piece);
            if self.starts[word] & bit != 0 {
                self.pieces.remove(piece);
            }
        }
    }

    /// All that the other one looks for.
    pub(crate) fn add(&mut self, other: Self) {
        self.texts.extend(other.texts);
        self.pieces.extend(other.pieces);
        for (word, bits) in self.starts.iter_mut().zip(other.starts) {
            *word |= bits;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.texts.len() + self.pieces.len()
    }

    /// The names of what is in there, and how it is written.
    pub(crate) fn found_in(&self, hay: &[u8]) -> Vec<String> {
        self.found(forms(hay))
    }

    /// The same where nothing would be written in another form than its own.
    pub(crate) fn found_in_raw(&self, hay: &[u8]) -> Vec<String> {
        self.found(vec![("as it is", hay.to_vec())])
    }

    fn found(&self, forms: Vec<(&str, Vec<u8>)>) -> Vec<String> {
        let mut found = Vec::new();
        for (form, bytes) in forms {
            for (name, text) in &self.texts {
                if memmem::find(&bytes, text).is_some() {
                    found.push(format!("{name} ({form})"));
                }
            }
            for piece in bytes.windows(PIECE) {
                let (word, bit) = start(piece);
                if self.starts[word] & bit != 0
                    && let Some(name) = self.pieces.get(piece)
                {
                    found.push(format!("{name} ({form})"));
                }
            }
        }
        found.sort();
        found.dedup();
        found
    }
}

/// Keys look random; text and structure do not.
fn is_random(piece: &[u8]) -> bool {
    let opaque = piece.iter().filter(|byte| !(b' '..=b'~').contains(byte)).count();
    let mut sorted = piece.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    opaque >= 4 && sorted.len() >= 11
}

/// What these bytes may be meant to say.
fn forms(hay: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let utf16 = |skip: usize| hay[skip.min(hay.len())..].chunks_exact(2).map(|pair| pair[0]);
    let mut forms = vec![
        ("as it is", hay.to_vec()),
        ("UTF-16", utf16(0).collect()),
        ("UTF-16", utf16(1).collect()),
        ("escaped", unescaped(hay)),
        ("decimal list", listed(hay, 10)),
        ("hexadecimal list", listed(hay, 16)),
    ];
    for skip in 0..2 {
        forms.push(("hexadecimal", packed(hay, skip, 2, hex_digit)));
    }
    for skip in 0..4 {
        forms.push(("base64", packed(hay, skip, 4, base64_digit)));
    }
    forms
}

fn hex_digit(byte: u8) -> Option<u32> {
    char::from(byte).to_digit(16)
}

/// RFC 4648 §4 and §5.
fn base64_digit(byte: u8) -> Option<u32> {
    Some(match byte {
        b'A'..=b'Z' => u32::from(byte - b'A'),
        b'a'..=b'z' => u32::from(byte - b'a') + 26,
        b'0'..=b'9' => u32::from(byte - b'0') + 52,
        b'+' | b'-' => 62,
        b'/' | b'_' => 63,
        _ => return None,
    })
}

/// What runs of digits encode, from their digit number `skip` on, `group` digits at a time.
fn packed(hay: &[u8], skip: usize, group: usize, digit: fn(u8) -> Option<u32>) -> Vec<u8> {
    let (bits, octets) = if group == 2 { (4, 1) } else { (6, 3) };
    let mut out = Vec::new();
    for run in hay.split(|byte| digit(*byte).is_none()) {
        for digits in run.get(skip..).unwrap_or_default().chunks(group) {
            let value = digits.iter().filter_map(|byte| digit(*byte)).fold(0, |v, d| v << bits | d);
            let missing = bits * u32::try_from(group - digits.len()).unwrap();
            let octets = digits.len() * octets / group;
            let all = (value << missing).to_be_bytes();
            let first = 4 - if group == 2 { 1 } else { 3 };
            out.extend_from_slice(&all[first..first + octets]);
        }
        if run.len() > 1 {
            out.push(0);
        }
    }
    out
}

/// `b"\x00..."` as Rust prints it.
fn unescaped(hay: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(hay.len());
    let mut rest = hay;
    while let [byte, after @ ..] = rest {
        let (byte, after) = match rest {
            [b'\\', b'x', high, low, after @ ..] => match (hex_digit(*high), hex_digit(*low)) {
                (Some(high), Some(low)) => (u8::try_from(high << 4 | low).unwrap(), after),
                _ => (*byte, after),
            },
            [b'\\', b'n', after @ ..] => (b'\n', after),
            [b'\\', b'r', after @ ..] => (b'\r', after),
            [b'\\', b't', after @ ..] => (b'\t', after),
            [b'\\', b'0', after @ ..] => (0, after),
            [b'\\', other, after @ ..] => (*other, after),
            _ => (*byte, after),
        };
        out.push(byte);
        rest = after;
    }
    out
}

/// `[1, 2, 255]`, `[1 2 ff]`, `01:02:ff`, over lines too.
fn listed(hay: &[u8], radix: u32) -> Vec<u8> {
    let mut out = Vec::new();
    for word in hay.split(|byte| !byte.is_ascii_alphanumeric()).filter(|word| !word.is_empty()) {
        let number = str::from_utf8(word).ok().and_then(|word| {
            u8::from_str_radix(word.strip_prefix("0x").unwrap_or(word), radix).ok()
        });
        match number {
            Some(number) => out.push(number),
            None if out.last() != Some(&0) => out.push(0),
            None => {}
        }
    }
    out
}

#[test]
fn what_is_planted_is_found_in_every_form() {
    let key: Vec<u8> = (0..32u8).map(|n| n.wrapping_mul(89) ^ 0xA7).collect();
    let mut secrets = Secrets::default();
    secrets.bytes("the key", &key);
    secrets.text("the text", "the quiet harbour");
    let hex = data_encoding::HEXLOWER;
    let text = "the quiet harbour";
    for before in 0..4 {
        let long = |bytes: &[u8]| [&vec![b'.'; before][..], bytes, b"..."].concat();
        let logs = [
            long(&key),
            format!("INFO key={}{} end", "a".repeat(before), hex.encode(&key)).into_bytes(),
            format!("key {}", data_encoding::HEXUPPER.encode(&key)).into_bytes(),
            format!("key {}!", data_encoding::BASE64.encode(&long(&key))).into_bytes(),
            format!("key {}!", data_encoding::BASE64URL_NOPAD.encode(&long(&key))).into_bytes(),
            format!("key {:?}", key).into_bytes(),
            format!("key {:#?}", key).into_bytes(),
            format!("key {:x?}", &key).into_bytes(),
            format!("key b\"{}\"", key.escape_ascii()).into_bytes(),
            // Half of it is enough.
            format!("{:02x?} and no more", &key[8..24]).into_bytes(),
        ];
        for log in logs {
            assert!(
                secrets.found_in(&log).iter().any(|found| found.starts_with("the key")),
                "{}",
                log.escape_ascii()
            );
        }
        let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let logs = [
            long(text.as_bytes()),
            long(&utf16),
            long(hex.encode(text.as_bytes()).as_bytes()),
            data_encoding::BASE64.encode(&long(text.as_bytes())).into_bytes(),
            format!("{:?}", text.as_bytes()).into_bytes(),
        ];
        for log in logs {
            assert!(
                secrets.found_in(&log).iter().any(|found| found.starts_with("the text")),
                "{}",
                log.escape_ascii()
            );
        }
    }
    assert!(secrets.found_in(b"INFO nothing of it, not even the quiet harbou 2").is_empty());
    secrets.public(&key);
    assert!(secrets.found_in(&key).is_empty());
}
