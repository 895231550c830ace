// SPDX-License-Identifier: GPL-2.0-only
//! Rules for Rust: how long a function may be.

use proc_macro2::Span;
use syn::visit::{self, Visit};

use super::c::MAX_FUNCTION_LINES;
use super::{Problem, Source};

/// Checks one file.
pub fn check(source: &Source) -> Vec<Problem> {
    let file = match syn::parse_file(&source.text) {
        Ok(file) => file,
        Err(error) => {
            let line = error.span().start().line;
            return vec![source.problem(line, format!("not Rust: {error}"))];
        }
    };
    let mut functions = Functions {
        source,
        problems: Vec::new(),
    };
    functions.visit_file(&file);
    functions.problems
}

struct Functions<'a> {
    source: &'a Source,
    problems: Vec<Problem>,
}

impl Functions<'_> {
    /// Counts from the line of the signature to that of the closing brace.
    fn measure(&mut self, signature: &syn::Signature, body: &syn::Block) {
        let first = line(signature.fn_token.span);
        let lines = line(body.brace_token.span.close()) + 1 - first;
        if lines > MAX_FUNCTION_LINES {
            let name = &signature.ident;
            let message =
                format!("`{name}` has {lines} lines; a function has at most {MAX_FUNCTION_LINES}");
            self.problems.push(self.source.problem(first, message));
        }
    }
}

fn line(span: Span) -> usize {
    span.start().line
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.measure(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.measure(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(body) = &function.default {
            self.measure(&function.sig, body);
        }
        visit::visit_trait_item_fn(self, function);
    }
}

#[cfg(test)]
mod tests {
    use super::super::source;
    use super::*;

    fn function(lines: usize) -> String {
        format!("fn long() {{\n{}}}\n", "    step();\n".repeat(lines - 2))
    }

    fn messages(text: &str) -> Vec<String> {
        check(&source("a.rs", text))
            .iter()
            .map(Problem::to_string)
            .collect()
    }

    #[test]
    fn a_function_of_71_lines_is_reported_wherever_it_hides() {
        let complaint = "`long` has 71 lines; a function has at most 70";
        assert!(messages(&function(70)).is_empty());
        assert_eq!(messages(&function(71)), [format!("a.rs:1: {complaint}")]);
        let method = format!("impl X {{\n#[inline]\n{}}}\n", function(71));
        assert_eq!(messages(&method), [format!("a.rs:3: {complaint}")]);
        let default = format!("trait X {{\n{}}}\n", function(71));
        assert_eq!(messages(&default), [format!("a.rs:2: {complaint}")]);
        let nested = format!("mod m {{ mod n {{\n{}}} }}\n", function(71));
        assert_eq!(messages(&nested), [format!("a.rs:2: {complaint}")]);
    }

    #[test]
    fn text_that_is_not_rust_is_reported() {
        assert_eq!(messages("fn f() {\n").len(), 1);
    }
}
