package main

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/google/cel-go/cel"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kube-openapi/pkg/validation/strfmt"
	"k8s.io/kube-openapi/pkg/validation/validate"
	"sigs.k8s.io/yaml"

	"github.com/fairlead-io/fairlead/deploy/crds"
)

// schemas are those that the API server holds objects against, by kind.
type schemas map[string]*spec.Schema

// readSchemas reads the definitions that this program was built with.
func readSchemas() (schemas, error) {
	all := schemas{}
	files, err := crds.Files.ReadDir(".")
	if err != nil {
		return nil, fmt.Errorf("list the CRDs: %w", err)
	}
	for _, f := range files {
		text, err := crds.Files.ReadFile(f.Name())
		if err != nil {
			return nil, fmt.Errorf("read the CRD %s: %w", f.Name(), err)
		}
		var crd struct {
			Spec struct {
				Names    struct{ Kind string }
				Versions []struct {
					Schema struct {
						OpenAPIV3Schema spec.Schema `json:"openAPIV3Schema"`
					}
				}
			}
		}
		if err := yaml.Unmarshal(text, &crd); err != nil {
			return nil, fmt.Errorf("read the CRD %s: %w", f.Name(), err)
		}
		all[crd.Spec.Names.Kind] = &crd.Spec.Versions[0].Schema.OpenAPIV3Schema
	}
	return all, nil
}

var inBody = regexp.MustCompile(`^\.?(\S*) in body (.*)$`)

// faults says what the API server would refuse in an object of the kind.
func (s schemas) faults(kind string, content []byte) (faults []string, err error) {
	schema := s[kind]
	if schema == nil {
		return nil, nil // not one of Fairlead's
	}
	var object map[string]any
	if err := utiljson.Unmarshal(content, &object); err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	for _, e := range validate.NewSchemaValidator(schema, nil, "", strfmt.Default).Validate(object).Errors {
		text := e.Error()
		if m := inBody.FindStringSubmatch(text); m != nil {
			text = m[1] + ": " + m[2]
		}
		faults = append(faults, text)
	}
	if len(faults) > 0 {
		return faults, nil // rules may count on the shape
	}
	r, err := newRules()
	if err != nil {
		return nil, err
	}
	err = r.check("", schema, object)
	return r.faults, err
}

// rules evaluates the CEL expressions of a schema.
type rules struct {
	env    *cel.Env
	faults []string
}

func newRules() (*rules, error) {
	set, err := environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()).Env(environment.StoredExpressions)
	if err != nil {
		return nil, fmt.Errorf("prepare the rules: %w", err)
	}
	env, err := set.Extend(cel.Variable("self", cel.DynType))
	if err != nil {
		return nil, fmt.Errorf("prepare the rules: %w", err)
	}
	return &rules{env: env}, nil
}

// check goes through the value and all that is in it.
func (r *rules) check(field string, schema *spec.Schema, value any) error {
	declared, _ := schema.Extensions["x-kubernetes-validations"].([]any)
	for _, d := range declared {
		rule, _ := d.(map[string]any)
		expression, _ := rule["rule"].(string)
		holds, err := r.holds(expression, value)
		if err != nil {
			return fmt.Errorf("evaluate a rule of %s: %w", field, err)
		}
		if !holds {
			message, _ := rule["message"].(string)
			r.faults = append(r.faults, strings.TrimPrefix(field, ".")+": "+message)
		}
	}
	switch value := value.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(value)) {
			of, declared := schema.Properties[name]
			if !declared {
				continue
			}
			if err := r.check(field+"."+name, &of, value[name]); err != nil {
				return err
			}
		}
	case []any:
		for i, v := range value {
			if schema.Items == nil || schema.Items.Schema == nil {
				break
			}
			if err := r.check(fmt.Sprintf("%s[%d]", field, i), schema.Items.Schema, v); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *rules) holds(expression string, self any) (bool, error) {
	ast, issues := r.env.Compile(expression)
	if err := issues.Err(); err != nil {
		return false, err
	}
	program, err := r.env.Program(ast)
	if err != nil {
		return false, err
	}
	result, _, err := program.Eval(map[string]any{"self": self})
	if err != nil {
		return false, err
	}
	holds, _ := result.Value().(bool)
	return holds, nil
}
