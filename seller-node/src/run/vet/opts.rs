//! QEMU's `key=value,key=value` texts, read as QEMU reads them and written anew.
//!
//! What QEMU is given is made from the parsed form, never the user's text: a spelling that is read
//! here in one way and there in another would be a hole.

/// Longest text that is looked at, in bytes.
const TEXT_LEN_MAX: usize = 4096;
/// Most pairs in one text.
const PAIRS_MAX: usize = 64;

/// The pairs of one text, in order, each key once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Opts(Vec<(String, String)>);

impl Opts {
    /// Reads a text; a first word without `=` is the value of `implied`, later ones mean `=on`.
    ///
    /// Two commas are one that belongs to the value. The error is the reason for a sentence that
    /// says it is refused.
    pub(crate) fn parse(text: &str, implied: Option<&str>) -> Result<Self, String> {
        if text.len() > TEXT_LEN_MAX {
            return Err("it is too long".to_owned());
        }
        if text.trim_start().starts_with('{') {
            return Err("JSON is not read here: write key=value,key=value".to_owned());
        }
        let mut opts = Self::default();
        let mut rest = text;
        while !rest.is_empty() {
            let named = rest.find(['=', ',']).filter(|at| rest.as_bytes()[*at] == b'=');
            let (key, value);
            match (named, implied) {
                (Some(at), _) => {
                    key = rest[..at].to_owned();
                    (value, rest) = take_value(&rest[at + 1..]);
                }
                (None, Some(implied)) if opts.0.is_empty() => {
                    key = implied.to_owned();
                    (value, rest) = take_value(rest);
                }
                (None, _) => {
                    (key, rest) = take_value(rest);
                    value = "on".to_owned();
                }
            }
            if key.is_empty() {
                return Err("a name is missing in front of a value".to_owned());
            }
            if opts.get(&key).is_some() {
                return Err(format!("{key} is in it twice"));
            }
            if opts.0.len() == PAIRS_MAX {
                return Err("it has too many parts".to_owned());
            }
            opts.0.push((key, value));
        }
        Ok(opts)
    }

    /// Returns a value.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| own == key).map(|(_, value)| value.as_str())
    }

    /// Takes a pair out and returns its value.
    pub(crate) fn take(&mut self, key: &str) -> Option<String> {
        let at = self.0.iter().position(|(own, _)| own == key)?;
        Some(self.0.remove(at).1)
    }

    /// Adds a pair at the end.
    pub(crate) fn push(&mut self, key: &str, value: &str) {
        self.0.push((key.to_owned(), value.to_owned()));
    }

    /// Returns all pairs.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Takes `on`, `off` and their other spellings; `None` if it is not there.
    pub(crate) fn take_bool(&mut self, key: &str) -> Result<Option<bool>, String> {
        match self.take(key).as_deref() {
            None => Ok(None),
            Some("on" | "yes" | "true" | "y") => Ok(Some(true)),
            Some("off" | "no" | "false" | "n") => Ok(Some(false)),
            Some(_) => Err(format!("{key} is on or off")),
        }
    }

    /// Writes the pairs for QEMU.
    pub(crate) fn write(&self) -> String {
        let pairs = self.pairs().map(|(key, value)| format!("{key}={}", value.replace(',', ",,")));
        pairs.collect::<Vec<_>>().join(",")
    }
}

/// Takes a value up to a single comma, which is left out.
fn take_value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if c == ',' && chars.next_if(|(_, next)| *next == ',').is_none() {
            return (value, &text[at + 1..]);
        }
        value.push(c);
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        Opts::parse(text, Some("driver")).expect(text).0
    }

    #[test]
    fn texts_are_read_as_qemu_reads_them() {
        let own = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        assert_eq!(pairs("a"), own(&[("driver", "a")]));
        assert_eq!(pairs("a,b=c"), own(&[("driver", "a"), ("b", "c")]));
        assert_eq!(pairs("b=c,d"), own(&[("b", "c"), ("d", "on")]));
        assert_eq!(pairs("file=a,,b=c,x=1"), own(&[("file", "a,b=c"), ("x", "1")]));
        assert_eq!(pairs("file=a,,,x=1"), own(&[("file", "a,"), ("x", "1")]));
        assert_eq!(pairs("file=a=b,x=,y=1"), own(&[("file", "a=b"), ("x", ""), ("y", "1")]));
        assert_eq!(pairs(""), own(&[]));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for bad in ["file=a,file=b", "=x", "a=1,,=", "{\"driver\":\"x\"}", " {}", "a=1,=2"] {
            let read = Opts::parse(bad, None);
            assert!(read.is_err() || bad == "a=1,,=", "{bad:?} was read: {read:?}");
        }
        assert!(Opts::parse(&"x".repeat(5000), None).is_err());
        let many: Vec<_> = (0..100).map(|i| format!("k{i}=1")).collect();
        assert!(Opts::parse(&many.join(","), None).is_err());
    }

    #[test]
    fn what_is_written_is_read_again_the_same() {
        for text in ["file=a,,b,x=1", "file=,,,,", "a=b=c", "x=,,,y=1"] {
            let opts = Opts::parse(text, None).expect(text);
            assert_eq!(Opts::parse(&opts.write(), None).expect(text), opts, "{text}");
        }
    }
}
