use serde::ser::SerializeSeq as _;

use super::*;

/// What serde derives asks for of vectors of bytes and of others.
#[derive(serde::Serialize)]
struct Large {
    bytes: Vec<u8>,
    none: Vec<u8>,
    many: Vec<u8>,
    pairs: Vec<(u8, u16)>,
    options: Vec<Option<u8>>,
    nested: Vec<Vec<u8>>,
    large: Vec<u64>,
}

/// Says another number of bytes than there are.
struct Lies(usize);

impl Serialize for Lies {
    fn serialize<S: ser::Serializer>(
        &self,
        serializer: S,
    ) -> core::result::Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(self.0))?;
        for byte in [1_u8, 2, 3, 4] {
            seq.serialize_element(&byte)?;
        }
        seq.serialize_element(&5_u32)?;
        seq.serialize_element(&6_u8)?;
        seq.end()
    }
}

fn joined(value: &impl Serialize) -> Vec<u8> {
    cut(value, &Blocks::default(), &mut 0).unwrap().join().to_vec()
}

#[test]
fn a_value_without_large_vectors_is_what_postcard_makes_of_it() {
    let value = Large {
        bytes: vec![1, 2, 3],
        none: Vec::new(),
        many: (0..1000).map(|byte| (byte % 251) as u8).collect(),
        pairs: vec![(1, 300), (2, 2)],
        options: vec![None, Some(7)],
        nested: vec![vec![1], Vec::new(), vec![2, 3]],
        large: vec![u64::MAX, 0],
    };
    assert_eq!(joined(&value), postcard::to_allocvec(&value).unwrap());
    for said in [0, 3, 4, 6, 100] {
        assert_eq!(joined(&Lies(said)), postcard::to_allocvec(&Lies(said)).unwrap());
    }
}
