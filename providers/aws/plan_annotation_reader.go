package aws

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// annotationReader reads annotations and collects problems.
type annotationReader struct {
	annotations map[string]string
	known       map[string]bool
	problems    []string
	ignored     []string // annotations without an effect, each with the reason
}

func (r *annotationReader) addProblem(name, format string, args ...any) {
	r.problems = append(r.problems, fmt.Sprintf("annotation %s: %s", prefix+name, fmt.Sprintf(format, args...)))
}

// addIgnored records that an annotation does not have an effect.
func (r *annotationReader) addIgnored(name, why string) {
	r.ignored = append(r.ignored, "annotation "+prefix+name+": "+why)
}

// readText returns the value without surrounding spaces, "" if the annotation is
// absent. It marks the annotation as known, for reportOthers.
func (r *annotationReader) readText(name string) string {
	r.known[prefix+name] = true
	return strings.TrimSpace(r.annotations[prefix+name])
}

func (r *annotationReader) readEnum(name string, values ...string) string {
	v := r.readText(name)
	if v != "" && !slices.Contains(values, v) {
		r.addProblem(name, "%q must be one of %s", v, strings.Join(values, ", "))
		return ""
	}
	return v
}

// readBool returns "true" or "false", or "" if the annotation is absent.
func (r *annotationReader) readBool(name string) string {
	switch v := r.readText(name); strings.ToLower(v) {
	case "", "true", "false":
		return strings.ToLower(v)
	default:
		r.addProblem(name, "%q must be true or false", v)
		return ""
	}
}

// readNumber returns 0 if the annotation is absent.
func (r *annotationReader) readNumber(name string, from, to int) int {
	v := r.readText(name)
	if v == "" {
		return 0
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < from || n > to {
		r.addProblem(name, "%q must be a number from %d to %d", v, from, to)
		return 0
	}
	return n
}

// readList reads values that are separated by commas. Empty ones are dropped.
func (r *annotationReader) readList(name string) (all []string) {
	for part := range strings.SplitSeq(r.readText(name), ",") {
		if part = strings.TrimSpace(part); part != "" {
			all = append(all, part)
		}
	}
	return all
}

// readPairs reads "k=v,k=v". A value may contain "=".
func (r *annotationReader) readPairs(name string) map[string]string {
	var all map[string]string
	for _, part := range r.readList(name) {
		k, v, _ := strings.Cut(part, "=")
		k, v = strings.TrimSpace(k), strings.TrimSpace(v)
		if k == "" {
			r.addProblem(name, "invalid entry %q: must be KEY=VALUE", part)
			continue
		}
		if _, twice := all[k]; twice {
			r.addProblem(name, "duplicate key %q", k)
		}
		all = put(all, k, v)
	}
	return all
}
