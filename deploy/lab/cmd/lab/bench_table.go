package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// resultTable compares measurements with those of plain API calls in the same run.
type resultTable struct{ rows []string }

// add compares two measurements. A limit of 0 is no limit.
func (t *resultTable) add(what string, took, bare time.Duration, limit float64) {
	t.addAll(what, []time.Duration{took}, []time.Duration{bare}, limit)
}

// addAll compares the medians of two series of measurements.
func (t *resultTable) addAll(what string, took, bare []time.Duration, limit float64) {
	m, b := quantile(took, .5), quantile(bare, .5)
	ratio := m.Seconds() / b.Seconds()
	verdict := ""
	if limit > 0 {
		verdict = fmt.Sprintf("≤ %g\t%s", limit, limitText(ratio <= limit))
	}
	t.rows = append(t.rows, fmt.Sprintf("%s\t%s\t%s\t%.2f\t%s", what, m, b, ratio, verdict))
}

// addCount adds a number with its limit.
func (t *resultTable) addCount(what string, n, limit int) {
	t.rows = append(t.rows, fmt.Sprintf("%s\t%d\t\t\t≤ %d\t%s", what, n, limit, limitText(n <= limit)))
}

func limitText(ok bool) string {
	if ok {
		return "within"
	}
	return "MISSED"
}

func (t *resultTable) String() string {
	return alignColumns("median\tFairlead\tplain API\tratio\tlimit\t", t.rows)
}

// quantile returns the q-quantile of the values, rounded to 100 µs.
func quantile(values []time.Duration, q float64) time.Duration {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[int(math.Round(q*float64(len(sorted)-1)))].Round(100 * time.Microsecond)
}

// outageTable shows times without a response, with their limits.
type outageTable struct{ rows []string }

// add adds a series of measurements. A limit of 0 is no limit.
func (t *outageTable) add(what string, took []time.Duration, median, worst time.Duration) {
	m, w := quantile(took, .5), quantile(took, 1)
	limits, verdict := "", ""
	switch {
	case median > 0:
		limits = fmt.Sprintf("≤ %s, ≤ %s", median, worst)
	case worst > 0:
		limits = fmt.Sprintf("≤ %s", worst)
	}
	if worst > 0 && len(took) > 0 {
		verdict = limitText(w <= worst && (median == 0 || m <= median))
	}
	t.rows = append(t.rows, fmt.Sprintf("%s\t%d\t%s\t%s\t%s\t%s", what, len(took), m, w, limits, verdict))
}

// addLost adds the number of lost requests, of which there must be none, and the longest
// times between two responses.
func (t *outageTable) addLost(what string, lost int, silences []time.Duration) {
	t.rows = append(t.rows, fmt.Sprintf("%s: %d\t%d\t%s\t%s\t0\t%s", what, lost,
		len(silences), quantile(silences, .5), quantile(silences, 1), limitText(lost == 0)))
}

// addMoved adds a number of addresses of which none may be moved.
func (t *outageTable) addMoved(what string, n int) {
	t.rows = append(t.rows, fmt.Sprintf("%s: %d\t\t\t\t0\t%s", what, n, limitText(n == 0)))
}

func (t *outageTable) String() string {
	return alignColumns("Layer 2\truns\tmedian\tworst\tlimits\t", t.rows)
}

func alignColumns(header string, rows []string) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, header)
	for _, row := range rows {
		fmt.Fprintln(w, row)
	}
	_ = w.Flush()
	return b.String()
}
