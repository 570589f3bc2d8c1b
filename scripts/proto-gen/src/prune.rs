//! Takes out of a file what one of its services does not need.

use std::collections::BTreeSet;

use prost_types::{DescriptorProto, FileDescriptorProto};

/// Keeps the service `name`, and of messages and enums those that its methods lead to, with their
/// comments.
pub fn keep_service(file: &mut FileDescriptorProto, name: &str) {
    let is_kept = |at: usize| file.service[at].name() == name;
    let services: Vec<usize> = (0..file.service.len()).filter(|at| is_kept(*at)).collect();
    let prefix = format!(".{}.", file.package());
    let mut wanted = BTreeSet::new();
    let mut open: Vec<String> = services
        .iter()
        .flat_map(|at| &file.service[*at].method)
        .flat_map(|method| [method.input_type(), method.output_type()])
        .map(ToOwned::to_owned)
        .collect();
    while let Some(path) = open.pop() {
        let Some(local) = path.strip_prefix(&prefix) else {
            continue;
        };
        // What is nested comes with what it is nested in.
        let top = local.split('.').next().unwrap_or(local).to_owned();
        if wanted.insert(top.clone()) {
            let found = file.message_type.iter().find(|it| it.name() == top);
            found.into_iter().for_each(|it| types(it, &mut open));
        }
    }
    let messages = indexes(&file.message_type, |it| wanted.contains(it.name()));
    let enums = indexes(&file.enum_type, |it| wanted.contains(it.name()));
    // Comments are found by the place of what they describe: [field of the file, index, ...].
    for (field, kept) in [(4, &messages), (5, &enums), (6, &services)] {
        let Some(info) = &mut file.source_code_info else {
            continue;
        };
        info.location.retain_mut(|location| match location.path[..] {
            [of, ref mut at, ..] if of == field => {
                let moved = kept.iter().position(|it| i32::try_from(*it) == Ok(*at));
                moved.and_then(|it| i32::try_from(it).ok()).is_some_and(|it| {
                    *at = it;
                    true
                })
            }
            _ => true,
        });
    }
    take(&mut file.message_type, &messages);
    take(&mut file.enum_type, &enums);
    take(&mut file.service, &services);
}

/// The types of all fields, those of nested messages too.
fn types(message: &DescriptorProto, into: &mut Vec<String>) {
    into.extend(message.field.iter().filter_map(|it| it.type_name.clone()));
    message.nested_type.iter().for_each(|it| types(it, into));
}

fn indexes<T>(all: &[T], is_kept: impl Fn(&T) -> bool) -> Vec<usize> {
    (0..all.len()).filter(|at| is_kept(&all[*at])).collect()
}

fn take<T>(all: &mut Vec<T>, kept: &[usize]) {
    let mut at = 0..;
    all.retain(|_| at.next().is_some_and(|at| kept.contains(&at)));
}
