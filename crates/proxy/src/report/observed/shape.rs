//! Paths as templates of AuthorizationPolicies: segments that are numbers, UUIDs or long hexadecimal numbers, and those that
//! no template can have, are `{*}`; what is too long ends with `{**}`.

/// The operator of a template for one segment.
const ANY: &str = "{*}";
/// The operator of a template for all that follows.
pub(super) const REST: &str = "{**}";

/// The number of segments that are kept.
const MAX_SEGMENTS: usize = 8;
/// The longest segment that is kept, in bytes.
const MAX_SEGMENT: usize = 48;
/// The number of bytes of a path that are looked at.
const MAX_PATH: usize = 512;
/// The length from which a hexadecimal number is an identifier.
const LONG_HEX: u64 = 16;

/// Returns the template of a path.
pub(super) fn shape(path: &str) -> String {
    let Some(rest) = path.strip_prefix('/') else { return format!("/{REST}") };
    let cut = rest.len() > MAX_PATH;
    let rest = if cut { rest.as_bytes().get(..MAX_PATH).unwrap_or_default() } else { rest.as_bytes() };
    let mut out = String::with_capacity(path.len().min(MAX_PATH));
    let mut segments = rest.split(|byte| *byte == b'/').enumerate().peekable();
    while let Some((index, segment)) = segments.next() {
        out.push('/');
        let last = segments.peek().is_none();
        // A template has no empty segments, but for the last one.
        if index == MAX_SEGMENTS || (last && cut) || (segment.is_empty() && !last) {
            out.push_str(REST);
            break;
        }
        match std::str::from_utf8(segment) {
            Ok(name) if !is_identifier(segment) && is_name(segment) => out.push_str(name),
            _ => out.push_str(ANY),
        }
    }
    out
}

/// Returns whether a segment can be part of a template as it is.
fn is_name(segment: &[u8]) -> bool {
    let literal = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=".contains(byte);
    segment.len() <= MAX_SEGMENT && segment.iter().all(literal)
}

/// How many characters of each kind a segment has: all, digits, hexadecimal digits and dashes, in 16 bits each.
#[derive(Clone, Copy, Default)]
struct Characters(u64);

/// Of each byte, what it adds to [`Characters`]: one addition for each byte of a path.
static KINDS: [u64; 256] = {
    let mut kinds = [1; 256];
    let mut byte = 0;
    while byte < 256 {
        let of = byte as u8;
        kinds[byte] |= (of.is_ascii_digit() as u64) << 16;
        kinds[byte] |= (of.is_ascii_hexdigit() as u64) << 32;
        kinds[byte] |= ((of == b'-') as u64) << 48;
        byte += 1;
    }
    kinds
};

impl Characters {
    /// Adds a byte. A segment of the bytes that are looked at does not overflow.
    fn add(&mut self, byte: u8) {
        self.0 += KINDS[usize::from(byte)];
    }

    /// Returns whether the segment is a number, a UUID or a long hexadecimal number.
    fn are_identifier(self) -> bool {
        let [all, digits, hex, dashes] = [0, 16, 32, 48].map(|shift| self.0 >> shift & 0xffff);
        let uuid = all == 36 && dashes == 4 && hex == 32;
        digits > 0 && (digits == all || (hex == all && all >= LONG_HEX) || uuid)
    }
}

fn is_identifier(segment: &[u8]) -> bool {
    let mut characters = Characters::default();
    segment.iter().for_each(|byte| characters.add(*byte));
    characters.are_identifier()
}

/// The multiplier of FNV-1a, with 64 bits.
const PRIME: u64 = 0x0100_0000_01b3;

/// Returns a hash of a text that goes on from another hash.
pub(super) fn hash(seed: u64, text: &str) -> u64 {
    text.bytes().fold((seed ^ text.len() as u64).wrapping_mul(PRIME), mix)
}

fn mix(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(PRIME)
}

/// Returns a hash of a path that goes on from another hash. All identifiers have the same hash. Paths of one hash have one
/// template, but for chance; those of one template may have several.
pub(super) fn fingerprint(seed: u64, path: &str) -> u64 {
    /// What identifiers are hashed as; no other byte of a path.
    const IDENTIFIER: u8 = b' ';
    let bytes = path.as_bytes();
    let seen = bytes.len().min(MAX_PATH + 1);
    let mut hash = mix(seed, u8::from(bytes.len() > seen));
    let (mut start, mut characters) = (hash, Characters::default());
    let end = |start, hash, characters: Characters| {
        mix(if characters.are_identifier() { mix(start, IDENTIFIER) } else { hash }, b'/')
    };
    for byte in &bytes[..seen] {
        if *byte == b'/' {
            hash = end(start, hash, characters);
            (start, characters) = (hash, Characters::default());
        } else {
            hash = mix(hash, *byte);
            characters.add(*byte);
        }
    }
    hash = end(start, hash, characters);
    // The low bits choose a slot.
    hash ^ (hash >> 32)
}
