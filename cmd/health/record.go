package health

import (
	"context"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// OwnPod returns the Pod of this process according to its environment, which the
// manifest sets; nil if it is not known, as outside of a cluster. The host name is the
// name of the Pod only if the Pod is not on the host network. kubectl describe finds
// Events by the UID.
func OwnPod() *corev1.ObjectReference {
	pod := &corev1.ObjectReference{
		APIVersion: "v1", Kind: "Pod",
		Namespace: os.Getenv("POD_NAMESPACE"), Name: os.Getenv("POD_NAME"), UID: types.UID(os.Getenv("POD_UID")),
	}
	if pod.Namespace == "" || pod.Name == "" {
		return nil
	}
	return pod
}

// RecordFailure records an Event about the Pod when the listener does not listen, another
// one at each interval, and one when it listens, until it does or ctx ends. The repeated
// Event is one object with a count. Without a Pod it records nothing.
func (l *Listener) RecordFailure(ctx context.Context, events record.EventRecorder, pod *corev1.ObjectReference, interval time.Duration) {
	if pod == nil {
		return
	}
	for failed := false; ; failed = true {
		select {
		case <-l.Started():
			if failed {
				events.Event(pod, corev1.EventTypeNormal, "Listening", "metrics are served on "+l.Addr().String())
			}
			return
		default:
		}
		events.Event(pod, corev1.EventTypeWarning, string(v1alpha1.ListenFailed), "metrics are not served: "+l.Failure()+"; retrying")
		select {
		case <-ctx.Done():
			return
		case <-l.Started():
		case <-time.After(interval):
		}
	}
}
