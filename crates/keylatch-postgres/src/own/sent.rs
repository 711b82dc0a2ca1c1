//! A row that the server has sent as one value, with `record_send`: the number of fields, then for each its type, its
//! length in bytes (-1 for null) and its bytes, in the binary form for clients.

use crate::error::Fault;
use crate::rows::{Fields, damaged};
use keylatch_core::{RecordId, Timestamp};

/// The result of `sql/enter_own.sql`.
pub(super) struct SentRow<'r> {
    pub(super) now: Timestamp,
    pub(super) flag: i16,
    /// The identity and the columns of the row, if there is a record.
    pub(super) record: Option<(RecordId, Fields<'r>)>,
}

impl<'r> SentRow<'r> {
    pub(super) fn read(reply: &'r [u8]) -> Result<Self, Fault> {
        // The number of fields; each field has its own type.
        let (_, fields) = split::<4>(reply)?;
        let row = &mut Row(fields);
        let now = Timestamp::from_millis(row.number()?);
        let flag = row.number()?;
        let Some(id) = row.field()? else { return Ok(Self { now, flag, record: None }) };
        let fields = Fields {
            owner: row.bytes()?,
            epoch: row.number()?,
            attempt: row.number()?,
            guarantee: row.number()?,
            state: row.number()?,
            created_at: row.number()?,
            takeover_at: row.number_or_null()?,
            free_at: row.number_or_null()?,
            lease_ends_at: row.number_or_null()?,
            expires_at: row.number_or_null()?,
            released: row.number::<i64>()? != 0,
            after_crash: row.number::<i64>()? != 0,
            fingerprint: row.bytes()?,
            caller: row.text()?,
            operation: row.text()?,
            key: row.text()?,
            step_names: row.list()?,
            step_results: row.list()?,
            outcome: row.field()?,
        };
        let id = id.try_into().map_err(|_| damaged("an identity has the wrong length"))?;
        Ok(Self { now, flag, record: Some((RecordId::from_bytes(id), fields)) })
    }
}

/// The fields that have not been read.
struct Row<'r>(&'r [u8]);

impl<'r> Row<'r> {
    fn field(&mut self) -> Result<Option<&'r [u8]>, Fault> {
        (_, self.0) = split::<4>(self.0)?;
        self.value()
    }

    fn value(&mut self) -> Result<Option<&'r [u8]>, Fault> {
        let (length, rest) = split(self.0)?;
        let Ok(length) = usize::try_from(i32::from_be_bytes(length)) else {
            self.0 = rest;
            return Ok(None);
        };
        let value;
        (value, self.0) = rest.split_at_checked(length).ok_or_else(cut)?;
        Ok(Some(value))
    }

    fn bytes(&mut self) -> Result<&'r [u8], Fault> {
        self.field()?.ok_or_else(|| damaged("a field that must not be null is null"))
    }

    fn text(&mut self) -> Result<&'r str, Fault> {
        str::from_utf8(self.bytes()?).map_err(|_| damaged("a text is not UTF-8"))
    }

    fn number_or_null(&mut self) -> Result<Option<i64>, Fault> {
        self.field()?.map(number).transpose()
    }

    /// A number; every number is sent as a `bigint`.
    fn number<T: TryFrom<i64>>(&mut self) -> Result<T, Fault> {
        T::try_from(number(self.bytes()?)?).map_err(|_| damaged("a number is out of range"))
    }

    /// An array of `bytea`: the number of dimensions, a flag, the type of the elements; for the one dimension, the
    /// number of elements and the first index; then each element as a value.
    fn list(&mut self) -> Result<Option<Vec<Vec<u8>>>, Fault> {
        let Some(array) = self.field()? else { return Ok(None) };
        let (dimensions, rest) = split(array)?;
        if i32::from_be_bytes(dimensions) == 0 {
            return Ok(Some(Vec::new()));
        }
        let (_, rest) = split::<8>(rest)?;
        let (length, rest) = split(rest)?;
        let (_, rest) = split::<4>(rest)?;
        let mut rest = Row(rest);
        let value = |_| rest.value()?.map(<[u8]>::to_vec).ok_or_else(|| damaged("a step is null"));
        (0..i32::from_be_bytes(length)).map(value).collect::<Result<_, _>>().map(Some)
    }
}

/// An instant, as a number that was sent.
pub(crate) fn instant(bytes: &[u8]) -> Result<Timestamp, Fault> {
    number(bytes).map(Timestamp::from_millis)
}

fn number(bytes: &[u8]) -> Result<i64, Fault> {
    bytes.try_into().map(i64::from_be_bytes).map_err(|_| damaged("a number has the wrong length"))
}

fn split<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), Fault> {
    bytes.split_first_chunk().map(|(first, rest)| (*first, rest)).ok_or_else(cut)
}

fn cut() -> Fault {
    damaged("a row was cut short")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(fields: &[Option<&[u8]>]) -> Vec<u8> {
        let mut reply = u32::try_from(fields.len()).unwrap().to_be_bytes().to_vec();
        for field in fields {
            reply.extend(17u32.to_be_bytes());
            reply.extend(field.map_or(-1, |field| i32::try_from(field.len()).unwrap()).to_be_bytes());
            reply.extend(field.unwrap_or_default());
        }
        reply
    }

    fn whole() -> Vec<u8> {
        let number = 7i64.to_be_bytes();
        let number = Some(number.as_slice());
        // One dimension, of two: `a` and nothing.
        let list = b"\0\0\0\x01\0\0\0\0\0\0\0\x11\0\0\0\x02\0\0\0\x01\0\0\0\x01a\0\0\0\0";
        let none = b"\0\0\0\0\0\0\0\0\0\0\0\x11";
        let mut fields = vec![number, number, Some(&[1; 32]), Some(&[2; 16])];
        fields.extend([number; 11]);
        // When the lease ends.
        fields[11] = None;
        fields.extend([Some([3; 32].as_slice()), Some(b"caller"), Some(b""), Some(b"key")]);
        fields.extend([Some(list.as_slice()), Some(none), None]);
        sent(&fields)
    }

    #[test]
    fn every_field_is_read() {
        let reply = whole();
        let found = SentRow::read(&reply).unwrap();
        let (id, fields) = found.record.unwrap();
        assert_eq!((found.now, found.flag, id), (Timestamp::from_millis(7), 7, RecordId::from_bytes([1; 32])));
        assert_eq!((fields.owner, fields.epoch, fields.attempt, fields.lease_ends_at), (&[2; 16][..], 7, 7, None));
        assert_eq!((fields.caller, fields.operation, fields.key), ("caller", "", "key"));
        assert_eq!(fields.step_names, Some(vec![b"a".to_vec(), Vec::new()]));
        assert_eq!((fields.step_results, fields.outcome), (Some(Vec::new()), None));
    }

    #[test]
    fn no_record_is_none() {
        let number = 7i64.to_be_bytes();
        let reply = sent(&[Some(&number), Some(&number), None]);
        assert!(SentRow::read(&reply).unwrap().record.is_none());
    }

    #[test]
    fn what_is_cut_short_is_an_error() {
        let reply = whole();
        for end in 0..reply.len() {
            assert!(SentRow::read(&reply[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn lengths_that_cannot_be_are_an_error() {
        for length in [i32::MIN, i32::MAX] {
            let mut reply = whole();
            reply[8..12].copy_from_slice(&length.to_be_bytes());
            assert!(SentRow::read(&reply).is_err());
        }
    }
}
