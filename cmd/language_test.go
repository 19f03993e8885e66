package cmd_test

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"sigs.k8s.io/yaml"
)

// unusualTerms are not the terms of Kubernetes and of networking. The glossary in
// CONTRIBUTING.md has the whole table.
var unusualTerms = []struct {
	pattern string
	instead string
	// limit is how often the word may occur in 10,000 words, as in other projects.
	// Where it is 0, the word must not occur in messages and docs.
	limit float64
}{
	{`\b(say|says|said|saying)\b`, "report, return, specify, state", 2.1},
	{`\b(tell|tells|told|telling)\b`, "advertise, announce, notify, configure", 5.2},
	{`\b(come|comes|came)\b`, "arrive, start, be received, be assigned from", 3.1},
	{`\b([Ww]hose|[Ww]hom)\b|(^|[.,:;(] ?)[Ww]ho\b`, "a sentence with a noun: the node that, the owner of", 4.1},
	{`\b(is|are|has|have) no [a-z]`, "is not a, does not have a, invalid", 7.3},
	{`%[qsvd] is no\b`, `invalid CIDR %q, or: must be a valid CIDR`, 0},
	{`(?i)\b(nobody|somebody|everybody|anybody)\b`, "none, another controller, any, all", 0},
	{`\bshall\b`, "must, is desired", 0},
	{`\bbeside\b`, "alongside, in addition to", 0},
	{`\b(lets?|letting) go\b`, "release", 0},
	{`\bbut (for|where)\b`, "except", 0},
	{`\bwish(es)?\b`, "desired state, request", 0},
	{`\banew\b`, "again, from the start", 0},
	{`\b(goodbye|farewells?|mourn\w*|politely)\b`, "close, shut down, wait for deletion", 0},
	{`\b(spokesm[ae]n|falls? silent|patience)\b`, "owner, withdraw, timeout or backoff", 0},
}

// text is a piece of prose and where it is.
type text struct{ place, words string }

// TestTerms checks that messages, comments and docs use standard terms.
func TestTerms(t *testing.T) {
	comments, messages := goTexts(t)
	for kind, texts := range map[string][]text{
		"comments": comments,
		"messages": append(messages, descriptions(t)...),
		"docs":     docs(t),
	} {
		words := 0
		for _, x := range texts {
			words += len(strings.Fields(x.words))
		}
		if words < 1000 {
			t.Fatalf("only %d words of %s were found", words, kind)
		}
		for _, term := range unusualTerms {
			pattern, count := regexp.MustCompile(term.pattern), 0
			var found []string
			for _, x := range texts {
				for _, match := range pattern.FindAllString(x.words, -1) {
					found, count = append(found, fmt.Sprintf("%s: %q in %s", x.place, match, x.words)), count+1
				}
			}
			allowed := int((term.limit + 1) * float64(words) / 10000)
			if term.limit == 0 && kind != "comments" {
				allowed = 0
			}
			if count > allowed {
				t.Errorf("%s have %d of %s, more than %d in %d words; instead use: %s\n\t%s",
					kind, count, term.pattern, allowed, words, term.instead, strings.Join(found, "\n\t"))
			}
		}
	}
}

// TestNames checks that private functions and types have names of more than one
// word: a verb with its object, or a noun with its qualifier.
func TestNames(t *testing.T) {
	mandated := map[string]bool{} // by an interface
	var functions, methods, types []string
	eachGoFile(t, func(path string, file *ast.File, _ *token.FileSet) {
		if strings.HasPrefix(path, "deploy/") {
			return
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.InterfaceType:
				for _, method := range n.Methods.List {
					for _, name := range method.Names {
						mandated[name.Name] = true
					}
				}
			case *ast.TypeSpec:
				types = append(types, n.Name.Name)
			case *ast.FuncDecl:
				switch name := n.Name.Name; {
				case n.Name.IsExported() || name == "main" || name == "init":
				case n.Recv != nil:
					methods = append(methods, name)
				default:
					functions = append(functions, name)
				}
			}
			return true
		})
	})
	functions = append(functions, slices.DeleteFunc(methods, func(name string) bool { return mandated[name] })...)
	for _, c := range []struct {
		kind  string
		names []string
		limit int // percent
	}{{"private functions", functions, 30}, {"types", types, 60}} {
		all := len(c.names)
		if all < 100 {
			t.Fatalf("only %d %s were found", all, c.kind)
		}
		oneWord := slices.DeleteFunc(c.names, func(name string) bool { return strings.ContainsFunc(name[1:], unicode.IsUpper) })
		percent := float64(len(oneWord)) * 100 / float64(all)
		t.Logf("%d of %d %s (%.1f %%) have a name of one word", len(oneWord), all, c.kind, percent)
		if percent > float64(c.limit) {
			slices.Sort(oneWord)
			t.Errorf("more than %d %%: %s", c.limit, strings.Join(slices.Compact(oneWord), " "))
		}
	}
}

// goTexts returns the comments of the code, and the string literals that users can
// see: those with a space.
func goTexts(t *testing.T) (comments, messages []text) {
	t.Helper()
	eachGoFile(t, func(path string, file *ast.File, set *token.FileSet) {
		place := func(n ast.Node) string { return fmt.Sprintf("%s:%d", path, set.Position(n.Pos()).Line) }
		for _, group := range file.Comments {
			comments = append(comments, text{place(group), strings.Join(strings.Fields(group.Text()), " ")})
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if literal, ok := n.(*ast.BasicLit); ok && literal.Kind == token.STRING {
				if value, err := strconv.Unquote(literal.Value); err == nil && strings.Contains(value, " ") {
					messages = append(messages, text{place(literal), value})
				}
			}
			return true
		})
	})
	return comments, messages
}

// descriptions returns the descriptions and validation messages of the CRDs.
func descriptions(t *testing.T) (all []text) {
	t.Helper()
	for _, path := range crdFiles(t) {
		var object any
		content, err := os.ReadFile(path)
		if err = cmp.Or(err, yaml.Unmarshal(content, &object)); err != nil {
			t.Fatal(err)
		}
		var walk func(value any)
		walk = func(value any) {
			switch value := value.(type) {
			case map[string]any:
				for key, v := range value {
					if key == "matchLabels" || key == "matchExpressions" {
						continue // described by Kubernetes
					}
					if s, ok := v.(string); ok && (key == "description" || key == "message") {
						all = append(all, text{filepath.Base(path), strings.Join(strings.Fields(s), " ")})
					}
					walk(v)
				}
			case []any:
				for _, v := range value {
					walk(v)
				}
			}
		}
		walk(object)
	}
	return all
}

var codeInDocs = regexp.MustCompile("(?s)```.*?```|`[^`\n]*`")

// docs returns the lines of the documentation, without code.
func docs(t *testing.T) (all []text) {
	t.Helper()
	eachFile(t, ".md", func(path string) {
		content, err := os.ReadFile(filepath.Join("..", path))
		if err != nil {
			t.Fatal(err)
		}
		prose := codeInDocs.ReplaceAllStringFunc(string(content), func(code string) string {
			return strings.Repeat("\n", strings.Count(code, "\n"))
		})
		number := 0
		for line := range strings.SplitSeq(prose, "\n") {
			number++
			all = append(all, text{fmt.Sprintf("%s:%d", path, number), line})
		}
	})
	return all
}
