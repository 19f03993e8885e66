package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/allocator"
	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// renumberRequest determines how long an address is kept alongside its replacement.
type renumberRequest struct {
	hold  bool // until the annotation is removed or the address is released
	at    time.Time
	after time.Duration // since the address was replaced; if 0, at applies
}

// parseRenumber parses the annotation fairlead.io/renumber; nil if it is not set.
func parseRenumber(svc *corev1.Service) (*renumberRequest, error) {
	text := svc.Annotations[v1alpha1.AnnotationRenumber]
	if text == "" {
		return nil, nil
	}
	if text == "hold" {
		return &renumberRequest{hold: true}, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return &renumberRequest{after: d}, nil
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return &renumberRequest{at: at}, nil
	}
	return nil, fmt.Errorf(`annotation %s: invalid value %q: must be "hold", a duration like "48h", or a time like "2030-01-31T18:00:00Z"`,
		v1alpha1.AnnotationRenumber, truncateText(text))
}

// releaseTime is when an address is released that was replaced at the given time.
// Under "hold" that is never.
func (r *renumberRequest) releaseTime(since time.Time) (at time.Time, ends bool) {
	if r.after > 0 {
		return since.Add(r.after), true
	}
	return r.at, !r.hold
}

// replacedAt is the recorded time at which the address was replaced, now if it is
// replaced by this plan.
func replacedAt(svc *corev1.Service, addr netip.Addr, now time.Time) time.Time {
	value, _ := config.ReadRecords(svc.Annotations[v1alpha1.AnnotationLeaving]).Of(addr)
	if since, err := time.Parse(time.RFC3339, value); err == nil {
		return since
	}
	return now.UTC().Truncate(time.Second)
}

// expiredAddresses are the replaced addresses to release now: their time is over,
// their replacement is announced, and they are not requested again. If the time of
// one is not over, expiredAddresses sets the time of the next sync.
func (d *decision) expiredAddresses(svc *serviceState, r *renumberRequest, asked *allocator.Request) (over []netip.Addr) {
	if r == nil {
		return nil
	}
	for _, h := range asked.Have {
		requested := slices.Contains(asked.Addrs, h.Addr) || asked.Pinned && slices.Contains(asked.Pools, h.Pool)
		if !h.Leaving || requested {
			continue
		}
		at, ends := r.releaseTime(replacedAt(svc.Service, h.Addr, d.Now))
		switch {
		case !ends: // an administrator releases it
		case d.Now.Before(at):
			if d.requeueAt.IsZero() || at.Before(d.requeueAt) {
				d.requeueAt = at
			}
		// Make before break: without a replacement the address stays in use.
		case d.replacementAnnounced(h.Addr, asked.Have):
			over = append(over, h.Addr)
		}
	}
	return over
}

// replacementAnnounced reports whether another address of the same family, which
// replaces the leaving one, is announced.
func (d *decision) replacementAnnounced(leaving netip.Addr, shown []allocator.Have) bool {
	return slices.ContainsFunc(shown, func(h allocator.Have) bool {
		return !h.Leaving && h.Addr.Is4() == leaving.Is4() &&
			d.announcedCondition([]allocator.Held{{Addr: h.Addr, Pool: h.Pool}}).Status == metav1.ConditionTrue
	})
}

// overdueAddresses are the replaced addresses that are still held after their time
// is over, because their replacement is not announced.
func (d *decision) overdueAddresses(svc *serviceState, held []allocator.Held) (addrs []netip.Addr) {
	for _, h := range held {
		if !h.Leaving {
			continue
		}
		r, err := parseRenumber(svc.Service)
		if err != nil || r == nil {
			continue
		}
		if at, ends := r.releaseTime(replacedAt(svc.Service, h.Addr, d.Now)); ends && !d.Now.Before(at) {
			addrs = append(addrs, h.Addr)
		}
	}
	return addrs
}

// retentionEnd is the part of a message that states until when a replaced address is
// kept.
func (d *decision) retentionEnd(svc *serviceState, addr netip.Addr) string {
	r, err := parseRenumber(svc.Service)
	if err != nil || r == nil {
		return "until annotation " + v1alpha1.AnnotationRenumber + " is valid"
	}
	at, ends := r.releaseTime(replacedAt(svc.Service, addr, d.Now))
	switch {
	case !ends:
		return "until annotation " + v1alpha1.AnnotationRenumber + " is removed"
	case d.Now.Before(at):
		return "until " + at.UTC().Format(time.RFC3339)
	}
	return "until the new address is announced"
}
