// Package cmd_test checks the rules of the repository: allowed imports, terms and
// names, and contracts.
package cmd_test

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/fairlead-io/fairlead/"

// floors orders the packages. Each may import those on lower floors only.
var floors = []struct {
	floor  int
	prefix string
	why    string
}{
	{4, "cmd", "wiring: flags and processes know everything"},
	{3, "controller", "the cluster side; it and the speaker meet only through the API"},
	{3, "speaker", "the node side; it and the controller meet only through the API"},
	{2, "controller/plan", "the decisions of the cluster side: pure, so that the CLI can run them too"},
	{2, "speaker/plan", "the decisions of the node side: pure, so that the CLI can run them too"},
	{1, "config", "parses the configuration, for both sides"},
	{1, "allocator", "an engine: pure, knows no client"},
	{2, "providers/aws", "a cloud: knows its API and the standard interface, not our controllers"},
	{2, "providers/providertest", "the contract of a cloud, for the tests of clouds"},
	{1, "providers", "the provider of a Service, for both sides and for clouds"},
	{1, "speaker/l2", "an engine: knows interfaces and addresses, not Kubernetes"},
	{1, "speaker/bgp", "an engine: knows sessions and routes, not Kubernetes"},
	{1, "speaker/bfd", "an engine: knows paths, not their users"},
	{1, "speaker/failover", "an engine: pure, knows addresses and names of nodes, not Kubernetes"},
	{1, "speaker/guard", "an engine: knows prefixes and interfaces, not Kubernetes"},
	{1, "config/fixture", "API objects for tests"},
	{2, "config/client", "typed clients and informers of our kinds, for both sides and the CLI"},
	{0, "config/v1alpha1", "the API: types, names and reasons"},
	{0, "config/fuzzed", "test values derived from the input of fuzzers"},
	{0, "config/memo", "values derived from objects, kept until one of them changes: knows none of our kinds"},
	{0, "deploy/crds", "the definitions of our kinds, as data"},
	{0, "speaker/internal/netlinkdump", "how engines read the tables of the kernel"},
	{0, "speaker/internal/netnstest", "runs the tests of engines in namespaces; see testHelpers"},
}

// testHelpers may be imported by tests only, and may read the environment.
var testHelpers = []string{"speaker/internal/netnstest"}

// only has the packages that may import a dependency, in addition to the rule of the
// floors.
var only = []struct {
	dependency string
	in         []string
	why        string
}{
	{"k8s.io/client-go/kubernetes", []string{"controller", "speaker", "cmd"}, "the packages that watch or write the API are easy to find"},
	{"k8s.io/client-go/informers", []string{"controller", "speaker", "cmd"}, "as above"},
	{"k8s.io/cloud-provider/app", []string{"cmd"}, "the framework is wiring"},
	{"github.com/mdlayher", []string{"speaker/l2"}, "raw sockets live in one place"},
	{
		"github.com/vishvananda/netlink",
		[]string{"speaker/l2", "speaker/guard", "speaker/internal/netlinkdump"},
		"the network of the kernel is read in one place and changed in one",
	},
	{"github.com/osrg/gobgp", []string{"speaker/bgp"}, "another BGP library, or another version of it, changes one package"},
	{"github.com/aws", []string{"providers/aws"}, "the API of AWS is called in one place"},
	{"github.com/spf13", []string{"cmd"}, "flags are wiring"},
	{"os/signal", []string{"cmd"}, "signals are wiring"},
}

type goPackage struct {
	Dir, ImportPath, Doc string
	Imports              []string
	GoFiles              []string
}

func packages(t *testing.T) (all []goPackage) {
	t.Helper()
	cmd := exec.Command("go", "list", "-json", "./...")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	decoder := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p goPackage
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if len(p.GoFiles) > 0 {
			all = append(all, p)
		}
	}
	if len(all) < 10 {
		t.Fatalf("only %d packages were found", len(all))
	}
	return all
}

func within(path, prefix string) bool {
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}

// floorOf returns the floor of the longest prefix that matches.
func floorOf(path string) (floor int, prefix string) {
	floor = -1
	for _, f := range floors {
		if within(path, f.prefix) && len(f.prefix) > len(prefix) {
			floor, prefix = f.floor, f.prefix
		}
	}
	return floor, prefix
}

func TestFloors(t *testing.T) {
	for _, p := range packages(t) {
		path := strings.TrimPrefix(p.ImportPath, module)
		floor, _ := floorOf(path)
		if floor < 0 {
			t.Errorf("%s has no floor: add it to floors, with the reason", path)
		}
		for _, i := range p.Imports {
			if below, ours := strings.CutPrefix(i, module); ours {
				if slices.Contains(testHelpers, below) {
					t.Errorf("%s imports %s outside of its tests", path, below)
				}
				if f, _ := floorOf(below); f >= floor && !(floor == 4 && f == 4) {
					t.Errorf("%s (floor %d) imports %s (floor %d)", path, floor, below, f)
				}
			}
			for _, o := range only {
				allowed := !within(i, o.dependency)
				for _, in := range o.in {
					allowed = allowed || within(path, in)
				}
				if !allowed {
					t.Errorf("%s imports %s, which only %v may: %s", path, i, o.in, o.why)
				}
			}
		}
	}
}

// pure has the packages that take values and return values. In other packages, the
// file plan.go and those with the prefix plan_ must be pure as well.
var pure = []string{"allocator", "config", "controller/plan", "providers", "speaker/plan"}

// clock has the functions of package time that read a clock.
var clock = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTicker", "NewTimer"}

// TestSource checks that each package has a package comment, JSON tags are on types of
// the API and of the CLI only, plans are pure, and only commands end the process.
func TestSource(t *testing.T) {
	for _, p := range packages(t) {
		path := strings.TrimPrefix(p.ImportPath, module)
		if p.Doc == "" {
			t.Errorf("%s has no package comment", path)
		}
		for _, name := range p.GoFiles {
			file := filepath.Join(p.Dir, name)
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), file, content, 0)
			if err != nil {
				t.Fatal(err)
			}
			plan := slices.Contains(pure, path) || name == "plan.go" || strings.HasPrefix(name, "plan_")
			if plan {
				for _, i := range parsed.Imports {
					switch strings.Trim(i.Path.Value, `"`) {
					case "context", "log/slog", "sync", "math/rand", "math/rand/v2", "os", "net":
						t.Errorf("%s/%s imports %s: a plan takes values and returns values", path, name, i.Path.Value)
					}
				}
			}
			ast.Inspect(parsed, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.Field:
					if n.Tag != nil && strings.Contains(n.Tag.Value, "json:") && path != "config/v1alpha1" && !within(path, "cmd/fairlead") {
						t.Errorf("%s/%s has a json tag", path, name)
					}
				case *ast.SelectorExpr:
					if x, ok := n.X.(*ast.Ident); ok && x.Name == "os" && (n.Sel.Name == "Exit" || n.Sel.Name == "Getenv") &&
						!within(path, "cmd") && !slices.Contains(testHelpers, path) {
						t.Errorf("%s/%s uses os.%s", path, name, n.Sel.Name)
					}
					if x, ok := n.X.(*ast.Ident); ok && plan && x.Name == "time" && slices.Contains(clock, n.Sel.Name) {
						t.Errorf("%s/%s uses time.%s: in a plan the time is an input", path, name, n.Sel.Name)
					}
				}
				return true
			})
		}
	}
}

// TestReasonsAreDocumented: every Reason has a heading in the troubleshooting
// page, and every heading there is a Reason.
func TestReasonsAreDocumented(t *testing.T) {
	reasons := reasons(t)
	page, err := os.ReadFile("../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(page), "\n") {
		if heading, ok := strings.CutPrefix(line, "### "); ok {
			if !reasons[heading] {
				t.Errorf("the heading %q is not a Reason", heading)
			}
			delete(reasons, heading)
		}
	}
	for r := range reasons {
		t.Errorf("the Reason %s has no heading", r)
	}
}

// reasons returns all Reasons.
func reasons(t *testing.T) map[string]bool {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), "../config/v1alpha1/reasons.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	ast.Inspect(parsed, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok && len(v.Values) == 1 {
			all[strings.Trim(v.Values[0].(*ast.BasicLit).Value, `"`)] = true
		}
		return true
	})
	return all
}

// TestArchitecturePage: the page's paths through the code name files and
// functions that exist, and its table has every package.
func TestArchitecturePage(t *testing.T) {
	page, err := os.ReadFile("../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	references := regexp.MustCompile("`([a-z0-9_/]+\\.go): ([A-Za-z.]+)`").FindAllStringSubmatch(string(page), -1)
	if len(references) < 20 {
		t.Fatalf("only %d references were found", len(references))
	}
	for _, r := range references {
		file, name := r[1], r[2]
		parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", file), nil, 0)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if !slices.ContainsFunc(parsed.Decls, func(d ast.Decl) bool { f, ok := d.(*ast.FuncDecl); return ok && funcName(f) == name }) {
			t.Errorf("%s has no function %s", file, name)
		}
	}
	for _, p := range packages(t) {
		path := strings.TrimPrefix(p.ImportPath, module)
		listed := strings.Contains(string(page), "`"+path+"`")
		if helper := within(path, "cmd") || strings.HasPrefix(path, "deploy/") || slices.Contains(testOnly, path); !listed && !helper {
			t.Errorf("the page does not list %s", path)
		}
	}
}

// testOnly has packages for tests.
var testOnly = []string{"config/fixture", "config/fuzzed", "providers/providertest", "speaker/internal/netnstest"}

// funcName is "Func" or "Type.Method".
func funcName(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return f.Name.Name
	}
	receiver := f.Recv.List[0].Type
	if pointer, ok := receiver.(*ast.StarExpr); ok {
		receiver = pointer.X
	}
	switch generic := receiver.(type) {
	case *ast.IndexExpr:
		receiver = generic.X
	case *ast.IndexListExpr:
		receiver = generic.X
	}
	return receiver.(*ast.Ident).Name + "." + f.Name.Name
}
