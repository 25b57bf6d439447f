//! Compares documented JSON examples with what programs really print, for tests.

use serde_json::Value;

/// Says what is wrong with a section of a document: nothing, if each object that the program
/// prints has an example of the same keys and kinds of values, each key is explained between
/// backticks, and each example is of an object that was printed.
///
/// A section begins with its `heading` and ends before the next of the same or a higher level;
/// examples are the lines of its fences marked `json`. Objects are told apart by their `event`.
/// A value that is null here or there may be of any kind.
#[must_use]
pub fn faults(document: &str, heading: &str, printed: &[Value]) -> Vec<String> {
    let level = heading.chars().take_while(|c| *c == '#').count();
    let ends = |line: &str| {
        let own = line.chars().take_while(|c| *c == '#').count();
        (1..=level).contains(&own) && line.as_bytes().get(own) == Some(&b' ')
    };
    let mut lines = document.lines().skip_while(|line| *line != heading);
    if lines.next().is_none() {
        return vec![format!("there is no heading {heading:?}")];
    }
    let (mut faults, mut examples, mut text) = (Vec::new(), Vec::new(), String::new());
    let mut fence = None;
    for line in lines {
        match (fence, line.strip_prefix("```")) {
            (None, Some(kind)) => fence = Some(kind),
            (Some(_), Some(_)) => fence = None,
            (Some("json"), None) => match serde_json::from_str::<Value>(line) {
                Ok(example) => examples.push(example),
                Err(error) => faults.push(format!("{line} is no JSON: {error}")),
            },
            (Some(_), None) => {}
            (None, None) if ends(line) => break,
            (None, None) => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    for real in printed {
        let Some(example) = examples.iter().find(|example| example["event"] == real["event"])
        else {
            faults.push(format!("no example of {real}"));
            continue;
        };
        compare(real, example, "", &mut faults);
        let keys = real.as_object().into_iter().flatten().map(|(key, _)| key);
        let missing = keys.filter(|key| !text.contains(&format!("`{key}`")));
        faults.extend(missing.map(|key| format!("{key} of {real} is not explained")));
    }
    for example in &examples {
        if !printed.iter().any(|real| real["event"] == example["event"]) {
            faults.push(format!("nothing prints {example}"));
        }
    }
    faults
}

fn compare(real: &Value, example: &Value, at: &str, faults: &mut Vec<String>) {
    match (real, example) {
        (Value::Object(real), Value::Object(example)) if !is_table(at) => {
            for (key, value) in real {
                match example.get(key) {
                    Some(shown) => compare(value, shown, key, faults),
                    None => faults.push(format!("{at} {key} is not in the example")),
                }
            }
            let gone = example.keys().filter(|key| !real.contains_key(*key));
            faults.extend(gone.map(|key| format!("{at} {key} is in the example alone")));
        }
        (Value::Null, _) | (_, Value::Null) => {}
        (real, example) if std::mem::discriminant(real) == std::mem::discriminant(example) => {}
        (real, example) => faults.push(format!("{at} is {real}, in the example {example}")),
    }
}

/// Says whether a value's keys are data, not names of fields.
fn is_table(key: &str) -> bool {
    matches!(key, "drops" | "reasons")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DOCUMENT: &str = "# A\n## B\n`event` and `x`.\n```json\n{\"event\":\"a\",\"x\":1}\n```\n\
                            ## C\n`y`\n```json\n{\"event\":\"c\"}\n```\n";

    #[test]
    fn a_document_that_does_not_fit_is_found_out() {
        let good = json!({ "event": "a", "x": 7 });
        assert_eq!(faults(DOCUMENT, "## B", std::slice::from_ref(&good)), [""; 0]);
        for (bad, why) in [
            (json!({ "event": "a", "x": "7" }), "another kind"),
            (json!({ "event": "a" }), "a key less"),
            (json!({ "event": "a", "x": 7, "y": 1 }), "a key more, explained elsewhere"),
            (json!({ "event": "c" }), "an event of another section"),
        ] {
            assert!(!faults(DOCUMENT, "## B", &[good.clone(), bad]).is_empty(), "{why}");
        }
        assert!(!faults(DOCUMENT, "## B", &[]).is_empty(), "an example of nothing");
        assert!(!faults(DOCUMENT, "## D", &[good]).is_empty(), "no such section");
    }
}
