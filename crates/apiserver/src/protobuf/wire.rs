//! The protobuf wire format, as far as Kubernetes uses it (<https://protobuf.dev/programming-guides/encoding/>).

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WireField<'a> {
    Number(u64),
    Fixed(u64),
    Bytes(&'a [u8]),
}

/// The message is truncated or uses a wire type that Kubernetes does not use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WireError;

/// An iterator over the fields of a message and their numbers. It ends after the first error.
pub(super) struct WireFields<'a>(Option<&'a [u8]>);

impl<'a> WireFields<'a> {
    pub(super) fn of(message: &'a [u8]) -> Self {
        Self(Some(message))
    }
}

impl<'a> Iterator for WireFields<'a> {
    type Item = Result<(u32, WireField<'a>), WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut rest = self.0.filter(|rest| !rest.is_empty())?;
        let field = field(&mut rest).ok_or(WireError);
        self.0 = field.is_ok().then_some(rest);
        Some(field)
    }
}

fn field<'a>(rest: &mut &'a [u8]) -> Option<(u32, WireField<'a>)> {
    let tag = number(rest)?;
    let field = match tag & 7 {
        0 => WireField::Number(number(rest)?),
        1 => WireField::Fixed(u64::from_le_bytes(take(rest, 8)?.try_into().ok()?)),
        2 => {
            let length = usize::try_from(number(rest)?).ok()?;
            WireField::Bytes(take(rest, length)?)
        }
        5 => WireField::Fixed(u64::from(u32::from_le_bytes(take(rest, 4)?.try_into().ok()?))),
        _ => return None,
    };
    Some((u32::try_from(tag >> 3).ok()?, field))
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for at in 0..10 {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        number |= u64::from(byte & 0x7f).checked_shl(7 * at)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(taken)
}
