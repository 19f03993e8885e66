package cmd_test

import (
	"cmp"
	"flag"
	"fmt"
	"go/ast"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

var updateContracts = flag.Bool("update", false, "write testdata/contracts.txt")

// TestContracts compares what users, other programs and stored objects depend on
// with a golden file. After a release, lines are only added to it.
func TestContracts(t *testing.T) {
	found := slices.Concat(storedNames(t), objectNames(t), programFlags(t), metricNames(t), reasonNames(t), customResources(t))
	slices.Sort(found)
	got := strings.Join(slices.Compact(found), "\n") + "\n"
	const golden = "testdata/contracts.txt"
	if *updateContracts {
		if err := cmp.Or(os.MkdirAll(filepath.Dir(golden), 0o755), os.WriteFile(golden, []byte(got), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	added, removed := lineSet(got), lineSet(string(want))
	for line := range lineSet(got) {
		delete(removed, line)
	}
	for line := range lineSet(string(want)) {
		delete(added, line)
	}
	for _, line := range slices.Sorted(maps.Keys(removed)) {
		t.Errorf("removed: %s", line)
	}
	for _, line := range slices.Sorted(maps.Keys(added)) {
		t.Errorf("added: %s", line)
	}
	if t.Failed() {
		t.Log("if this is intended: go test ./cmd -run TestContracts -update")
	}
}

func lineSet(content string) map[string]bool {
	lines := map[string]bool{}
	for line := range strings.Lines(content) {
		lines[strings.TrimSpace(line)] = true
	}
	return lines
}

// literal returns the value of a string literal, "" for any other expression.
func literal(e ast.Expr) string {
	if l, ok := e.(*ast.BasicLit); ok && l.Kind == token.STRING {
		value, _ := strconv.Unquote(l.Value)
		return value
	}
	return ""
}

// mainFiles visits the files of the main module.
func mainFiles(t *testing.T, visit func(path string, file *ast.File)) {
	t.Helper()
	eachGoFile(t, func(path string, file *ast.File, _ *token.FileSet) {
		if !strings.HasPrefix(path, "deploy/") {
			visit(path, file)
		}
	})
}

// storedName matches annotation keys, labels, finalizers, taints, classes, types of
// conditions and tags, and the names of field managers, leases and workloads.
var storedName = regexp.MustCompile(`^([a-z0-9-]+(\.[a-z0-9-]+)*\.(io|tf|org|cilium)/[A-Za-z0-9./-]*|fairlead-[a-z-]+)$`)

// storedNames returns the string constants and other literals that match storedName.
func storedNames(t *testing.T) (lines []string) {
	t.Helper()
	mainFiles(t, func(_ string, file *ast.File) {
		imports := map[ast.Expr]bool{}
		for _, i := range file.Imports {
			imports[i.Path] = true
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if l, ok := n.(*ast.BasicLit); ok && !imports[l] && storedName.MatchString(literal(l)) {
				lines = append(lines, "name "+literal(l))
			}
			return true
		})
	})
	return lines
}

// annotationPart matches the keys of annotations for AWS after their prefix, and
// values in the same form.
var annotationPart = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)

// objectNames returns the literals that names of objects in AWS are made of, and the
// keys and values of annotations for AWS.
func objectNames(t *testing.T) (lines []string) {
	t.Helper()
	mainFiles(t, func(path string, file *ast.File) {
		switch path {
		case "providers/aws/names.go", "providers/aws/plan_annotations.go", "providers/aws/plan_annotation_table.go":
		default:
			return
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if _, isImport := n.(*ast.ImportSpec); isImport {
				return false
			}
			l, ok := n.(*ast.BasicLit)
			switch value := ""; {
			case !ok:
			case filepath.Base(path) == "names.go":
				if value = literal(l); strings.Trim(value, "\x00") != "" {
					lines = append(lines, fmt.Sprintf("aws name %q", value))
				}
			default:
				if value = literal(l); annotationPart.MatchString(value) {
					lines = append(lines, "aws annotation "+value)
				}
			}
			return true
		})
	})
	return lines
}

// flagMethod matches the methods of flag sets that define a flag.
var flagMethod = regexp.MustCompile(`^(String|Bool|Duration|Int|Text|StringSlice|StringArray|StringToString)VarP?$`)

// programFlags returns the flags that each program defines. Those of the framework
// are not included.
func programFlags(t *testing.T) (lines []string) {
	t.Helper()
	mainFiles(t, func(path string, file *ast.File) {
		parts := strings.Split(path, "/")
		if parts[0] != "cmd" {
			return
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) < 4 {
				return true
			}
			if s, ok := call.Fun.(*ast.SelectorExpr); ok && flagMethod.MatchString(s.Sel.Name) && literal(call.Args[1]) != "" {
				line := fmt.Sprintf("flag %s --%s", parts[1], literal(call.Args[1]))
				if strings.HasSuffix(s.Sel.Name, "P") {
					line += " -" + literal(call.Args[2])
				}
				lines = append(lines, line)
			}
			return true
		})
	})
	return lines
}

// metricNames returns the metrics with their labels.
func metricNames(t *testing.T) (lines []string) {
	t.Helper()
	mainFiles(t, func(_ string, file *ast.File) {
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			name, labels := "", []string{}
			if s, ok := call.Fun.(*ast.SelectorExpr); ok && s.Sel.Name == "NewDesc" {
				name = literal(call.Args[0])
			}
			for _, argument := range call.Args {
				if u, ok := argument.(*ast.UnaryExpr); ok {
					argument = u.X
				}
				composite, ok := argument.(*ast.CompositeLit)
				if !ok {
					continue
				}
				for _, element := range composite.Elts {
					if field, ok := element.(*ast.KeyValueExpr); !ok {
						labels = append(labels, literal(element))
					} else if key, ok := field.Key.(*ast.Ident); ok && key.Name == "Name" && strings.HasPrefix(literal(field.Value), "fairlead_") {
						name = literal(field.Value)
					}
				}
			}
			if name != "" {
				lines = append(lines, fmt.Sprintf("metric %s{%s}", name, strings.Join(labels, ",")))
			}
			return true
		})
	})
	return lines
}

// documentedMetric matches a row of a table of docs/metrics.md: name and labels.
var documentedMetric = regexp.MustCompile("(?m)^\\| `(fairlead_[a-z0-9_]+)` \\| ([^|]*)\\|")

// TestMetricsDocumented compares docs/metrics.md with the metrics in the code. Values of
// labels follow the label, after a colon; labels are separated by semicolons.
func TestMetricsDocumented(t *testing.T) {
	content, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, row := range documentedMetric.FindAllStringSubmatch(string(content), -1) {
		labels := []string{}
		for label := range strings.SplitSeq(row[2], ";") {
			label, _, _ = strings.Cut(label, ":")
			labels = append(labels, strings.Trim(strings.TrimSpace(label), "`"))
		}
		documented = append(documented, fmt.Sprintf("metric %s{%s}", row[1], strings.Join(labels, ",")))
	}
	slices.Sort(documented)
	defined := metricNames(t)
	slices.Sort(defined)
	if documented = slices.Compact(documented); !slices.Equal(documented, defined) {
		t.Errorf("docs/metrics.md has\n%s\nthe code has\n%s", strings.Join(documented, "\n"), strings.Join(defined, "\n"))
	}
}

func reasonNames(t *testing.T) (lines []string) {
	t.Helper()
	for reason := range reasons(t) {
		lines = append(lines, "reason "+reason)
	}
	return lines
}

// customResourceDefinition has the parts of a CRD that are contracts.
type customResourceDefinition struct {
	Spec struct {
		Group, Scope string
		Names        struct {
			Kind, Plural           string
			ShortNames, Categories []string
		}
		Versions []struct {
			Name                     string
			AdditionalPrinterColumns []struct{ Name, JSONPath string }
			Schema                   struct{ OpenAPIV3Schema schemaProps }
		}
	}
}

// schemaProps has the parts of a schema that define fields.
type schemaProps struct {
	Type                        string
	Properties                  map[string]schemaProps
	Items, AdditionalProperties *schemaProps
}

// customResources returns the kinds, printer columns and fields of the CRDs.
func customResources(t *testing.T) (lines []string) {
	t.Helper()
	for _, path := range crdFiles(t) {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var crd customResourceDefinition
		if err := yaml.Unmarshal(content, &crd); err != nil {
			t.Fatal(err)
		}
		names := crd.Spec.Names
		for _, version := range crd.Spec.Versions {
			kind := fmt.Sprintf("%s/%s %s", crd.Spec.Group, version.Name, names.Kind)
			lines = append(lines, fmt.Sprintf("kind %s %s scope=%s short=%v categories=%v",
				kind, names.Plural, crd.Spec.Scope, names.ShortNames, names.Categories))
			for _, column := range version.AdditionalPrinterColumns {
				lines = append(lines, fmt.Sprintf("column %s %q %s", kind, column.Name, column.JSONPath))
			}
			lines = append(lines, fields("field "+kind+" ", version.Schema.OpenAPIV3Schema)...)
		}
	}
	return lines
}

// fields returns the paths and types of all fields.
func fields(path string, schema schemaProps) (lines []string) {
	lines = append(lines, path+": "+schema.Type)
	for name, property := range schema.Properties {
		lines = append(lines, fields(path+"."+name, property)...)
	}
	if schema.Items != nil {
		lines = append(lines, fields(path+"[]", *schema.Items)...)
	}
	if schema.AdditionalProperties != nil {
		lines = append(lines, fields(path+"{}", *schema.AdditionalProperties)...)
	}
	return lines
}
