//! Packets of OpenPGP that come in pieces (partial body lengths, RFC 9580 section 4.2.1.4), joined.
//!
//! The first piece has to have 512 bytes. Go's former library, which skopeo used for years, begins with
//! less; every other program takes that, the crate `pgp` does not.

use zeroize::Zeroizing;

/// The same packets, those of the new format with a length of four bytes; `None` if one is cut off.
pub(super) fn whole(bytes: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    // Two bytes are the shortest packet, which becomes six.
    let mut made = Zeroizing::new(Vec::with_capacity(bytes.len() * 3 + 8));
    let mut rest = bytes;
    while let Some((&tag, after)) = rest.split_first() {
        if tag & 0x40 == 0 {
            let size = match tag & 3 {
                0 => 1,
                1 => 2,
                2 => 4,
                // As long as what follows.
                _ => {
                    made.extend_from_slice(rest);
                    break;
                }
            };
            let (length, _) = after.split_at_checked(size)?;
            let (packet, next) = rest.split_at_checked(1 + size + number(length))?;
            made.extend_from_slice(packet);
            rest = next;
            continue;
        }
        let mut body = Zeroizing::new(Vec::with_capacity(after.len()));
        rest = after;
        loop {
            let (&first, after) = rest.split_first()?;
            let (length, after) = match first {
                0..=191 => (usize::from(first), after),
                192..=223 => {
                    let (&second, after) = after.split_first()?;
                    let length = (usize::from(first) - 192) * 256 + usize::from(second) + 192;
                    (length, after)
                }
                224..=254 => (1 << (first & 0x1f), after),
                255 => {
                    let (length, after) = after.split_at_checked(4)?;
                    (number(length), after)
                }
            };
            let (piece, after) = after.split_at_checked(length)?;
            body.extend_from_slice(piece);
            rest = after;
            if !matches!(first, 224..=254) {
                break;
            }
        }
        made.extend_from_slice(&[tag, 255]);
        made.extend_from_slice(&u32::try_from(body.len()).ok()?.to_be_bytes());
        made.extend_from_slice(&body);
    }
    Some(made)
}

fn number(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .fold(0, |sum, &byte| (sum << 8) | usize::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_joined_and_lengths_kept() {
        let joined = |bytes: &[u8]| whole(bytes).map(|it| it.to_vec());
        let old = [0x84, 2, 7, 8];
        assert_eq!(joined(&old).unwrap(), old);
        let to_the_end = [0xa3, 1, 2, 3];
        assert_eq!(joined(&to_the_end).unwrap(), to_the_end);
        // Two bytes, one byte, and two more; then a packet of the old format.
        let pieces = [0xd2, 225, 1, 2, 224, 3, 2, 4, 5, 0x85, 0, 1, 9];
        let one = [0xd2, 255, 0, 0, 0, 5, 1, 2, 3, 4, 5, 0x85, 0, 1, 9];
        assert_eq!(joined(&pieces).unwrap(), one);
        assert_eq!(joined(&one).unwrap(), one);
        let mut two = vec![0xd2, 193, 52];
        two.extend([6; 500]);
        let joined_two = joined(&two).unwrap();
        assert_eq!(joined_two[..6], [0xd2, 255, 0, 0, 1, 244]);
        assert_eq!(joined_two.len(), 506);
        // Only between packets can something be cut.
        for (whole, between) in [(&pieces[..], 9), (&two, 0), (&old, 0)] {
            for cut in 1..whole.len() {
                let found = joined(&whole[..cut]).is_some();
                assert_eq!(found, cut == between, "{cut}");
            }
        }
        assert!(joined(&[]).unwrap().is_empty());
        assert_eq!(joined(&[0xd2, 254]), None);
        assert_eq!(joined(&[0xd2, 255, 255, 255, 255, 255]), None);
    }
}
