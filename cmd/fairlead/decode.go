package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubejson "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/yaml"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// reader takes objects from files, and says where each is that it cannot use.
type reader struct {
	// strict is for what people write: everything in it must be understood, and
	// of a kind that wanted names. What a cluster has written may hold anything.
	strict bool
	wanted func(runtime.Object) bool
	schemas
	into *inventory
	// namespace is for objects that name none; "" where all are as a cluster has them.
	namespace string
	// skipped counts the objects of kinds that nothing depends on.
	skipped map[string]int
}

// readFile reads one file, or standard input for "-".
func (r *reader) readFile(path string, stdin io.Reader) error {
	if path == "-" {
		return r.readAll("standard input", stdin)
	}
	f, err := os.Open(path)
	if err != nil {
		return err // it names the file
	}
	defer f.Close()
	return r.readAll(path, f)
}

// readAll reads all documents. The name is for errors.
func (r *reader) readAll(name string, in io.Reader) error {
	content, err := io.ReadAll(in)
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	all, err := documents(content)
	for i, document := range all {
		if err := r.read(document); err != nil {
			return fmt.Errorf("%s: document %d: %w", name, i+1, err)
		}
	}
	switch {
	case err != nil:
		return fmt.Errorf("%s: document %d: %w", name, len(all)+1, err)
	case len(all) == 0:
		return fmt.Errorf("%s: it holds no object", name)
	}
	return nil
}

// documents are the YAML or JSON documents in a file, as JSON, up to the first
// one that is none. Those without content, such as comments, do not count.
func documents(content []byte) ([]json.RawMessage, error) {
	if all, ok := jsonDocuments(content); ok {
		return all, nil // much faster than YAML, of which it is not quite a part: tabs
	}
	var all []json.RawMessage
	for parts := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content))); ; {
		part, err := parts.Read()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		document, err := sigsyaml.YAMLToJSONStrict(part)
		if err != nil {
			return all, errors.New(strings.Join(strings.Fields(err.Error()), " ")) // it may have several lines
		}
		if string(document) != "null" {
			all = append(all, document)
		}
	}
}

func jsonDocuments(content []byte) (all []json.RawMessage, ok bool) {
	for decoder := json.NewDecoder(bytes.NewReader(content)); ; {
		var document json.RawMessage
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			return all, true
		}
		if err != nil {
			return nil, false
		}
		all = append(all, document)
	}
}

// identity is what every object has, and what a list is.
type identity struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        struct {
		Namespace    string `json:"namespace"`
		Name         string `json:"name"`
		GenerateName string `json:"generateName"`
	} `json:"metadata"`
	Items []json.RawMessage `json:"items"`
}

// read takes one document: an object, or a list of objects.
func (r *reader) read(document []byte) error {
	var id identity
	if err := json.Unmarshal(document, &id); err != nil {
		return fmt.Errorf("is no Kubernetes object: %s", inWords(err))
	}
	if id.Kind == "" || id.APIVersion == "" {
		return errors.New("is no Kubernetes object: it has no apiVersion, or no kind")
	}
	of, isList := strings.CutSuffix(id.Kind, "List")
	if !isList {
		return r.readObject(document, id)
	}
	for i, item := range id.Items {
		var in identity
		if err := json.Unmarshal(item, &in); err != nil {
			return fmt.Errorf("item %d: is no Kubernetes object: %s", i, inWords(err))
		}
		if in.Kind == "" && of != "" { // the items of a ServiceList don't say that they are Services
			in.APIVersion, in.Kind = id.APIVersion, of
		}
		if err := r.readObject(item, in); err != nil {
			return fmt.Errorf("item %d: %w", i, err)
		}
	}
	return nil
}

// readObject takes one object.
func (r *reader) readObject(content []byte, id identity) error {
	what := strings.TrimPrefix(id.Metadata.Namespace+"/"+id.Metadata.Name, "/")
	kind := schema.FromAPIVersionAndKind(id.APIVersion, id.Kind)
	empty, err := scheme.New(kind)
	known := err == nil
	if known && r.wanted != nil {
		known = r.wanted(empty)
	}
	if placed, _ := new(inventory).put(empty); !known || !placed {
		if r.strict {
			return fmt.Errorf("%s %q: the kind %s of %s is not known here: a file may hold Fairlead's kinds (%s), and Services, Namespaces and Nodes (v1)", id.Kind, what, id.Kind, id.APIVersion, v1alpha1.GroupVersion)
		}
		r.skipped[id.Kind]++
		return nil
	}
	if id.Metadata.Name == "" {
		return fmt.Errorf("%s: metadata.name: is missing", id.Kind)
	}
	codec := kubejson.NewSerializerWithOptions(kubejson.DefaultMetaFactory, scheme, scheme, kubejson.SerializerOptions{Strict: r.strict})
	object, _, err := codec.Decode(content, &kind, nil)
	if err != nil {
		return fmt.Errorf("%s %q: %s", id.Kind, what, faults(content, empty, err))
	}
	if r.strict {
		faults, err := r.schemas.faults(id.Kind, content)
		if err != nil {
			return fmt.Errorf("%s %q: %w", id.Kind, what, err)
		}
		if len(faults) > 0 {
			return fmt.Errorf("%s %q: %s", id.Kind, what, strings.Join(faults, "; "))
		}
	}
	switch o := object.(type) {
	case *corev1.Service:
		o.Namespace = cmp.Or(o.Namespace, r.namespace)
	case *discoveryv1.EndpointSlice:
	case metav1.Object:
		o.SetNamespace("") // the other kinds have none, whatever the file says
	}
	if _, again := r.into.put(object); again && r.strict {
		return fmt.Errorf("%s %q: is there twice", id.Kind, what)
	}
	return nil
}

var strictFault = regexp.MustCompile(`^(unknown|duplicate) field "(.+)"$`)

// faults says which fields cannot be understood, and why.
func faults(content []byte, empty runtime.Object, err error) string {
	strict, ok := runtime.AsStrictDecodingError(err)
	if !ok {
		// The decoder's error cannot be asked for the field; the standard one's can.
		if again := json.Unmarshal(content, empty); again != nil {
			err = again
		}
		return inWords(err)
	}
	var all []string
	for _, e := range strict.Errors() {
		text := e.Error()
		if m := strictFault.FindStringSubmatch(text); m != nil {
			text = fmt.Sprintf("%s: %s field", m[2], m[1])
		}
		all = append(all, text)
	}
	return strings.Join(all, "; ")
}

// inWords names the field of which the type is wrong.
func inWords(err error) string {
	var wrong *json.UnmarshalTypeError
	if !errors.As(err, &wrong) {
		return err.Error()
	}
	field := wrong.Field
	if field == "" {
		field = "the document"
	}
	return fmt.Sprintf("%s: is %s, must be %s", field, article(wrong.Value), typeInWords(wrong.Type))
}

func article(value string) string {
	value = strings.TrimSuffix(value, " ")
	switch {
	case value == "bool":
		return "true or false"
	case strings.HasPrefix(value, "number "):
		return "the number " + strings.TrimPrefix(value, "number ")
	case value == "array":
		return "a list"
	case value == "object":
		return "an object"
	}
	return "a " + value
}

func typeInWords(t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return fmt.Sprintf("a whole number of %d bits", t.Bits())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return fmt.Sprintf("a whole number from 0, of %d bits", t.Bits())
	case reflect.Slice, reflect.Array:
		return "a list"
	}
	return "an object"
}
