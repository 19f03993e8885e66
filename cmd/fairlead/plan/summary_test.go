package plan

import (
	"reflect"
	"slices"
	"testing"
)

// TestSummaryTerms: the summary and the list of changes call a change the same.
func TestSummaryTerms(t *testing.T) {
	for _, f := range reflect.VisibleFields(reflect.TypeFor[planSummary]()) {
		if key := f.Tag.Get("json"); !slices.Contains(serviceChanges, serviceChange(key)) {
			t.Errorf("%s is not one of the changes", key)
		}
	}
}
