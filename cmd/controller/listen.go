package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	apiserveroptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/fairlead-io/fairlead/cmd/health"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// listenSecurely sets and returns the listener of --secure-port, which serves metrics.
// The framework would end the process if another program on the host listens on the
// port. It returns nil if the flags leave the listener to the framework.
func listenSecurely(o *apiserveroptions.SecureServingOptionsWithLoopback) (*health.Listener, error) {
	if o.BindPort == 0 || o.PermitPortSharing || o.PermitAddressSharing {
		return nil, nil
	}
	legacyregistry.MustRegister(health.ListenFailures)
	address := net.JoinHostPort(o.BindAddress.String(), strconv.Itoa(o.BindPort))
	l, err := health.Listen("tcp", address, newLogger(), health.ListenFailures.Inc)
	if err != nil {
		return nil, fmt.Errorf("--bind-address, --secure-port: %w", err)
	}
	o.Listener = l
	return l, nil
}

// ownPod returns the Pod of this process according to its environment, which the
// manifest sets; nil if it is not known, as outside of a cluster. The host name is the
// name of the Pod only if the Pod is not on the host network. kubectl describe finds
// Events by the UID.
func ownPod() *corev1.ObjectReference {
	pod := &corev1.ObjectReference{
		APIVersion: "v1", Kind: "Pod",
		Namespace: os.Getenv("POD_NAMESPACE"), Name: os.Getenv("POD_NAME"), UID: types.UID(os.Getenv("POD_UID")),
	}
	if pod.Namespace == "" || pod.Name == "" {
		return nil
	}
	return pod
}

// recordListenFailure records an Event about the Pod when the listener does not listen,
// another one at each interval, and one when it listens, until it does or ctx ends.
// The repeated Event is one object with a count.
func recordListenFailure(
	ctx context.Context, l *health.Listener, events record.EventRecorder, pod *corev1.ObjectReference, interval time.Duration,
) {
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
