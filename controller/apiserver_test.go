package controller

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"

	"github.com/fairlead-io/fairlead/config/client"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

// apiServer serves what the controller calls, over HTTP: Services that can be listed,
// watched, read and applied with optimistic locking, one pool, and empty lists of
// everything else.
type apiServer struct {
	mu       sync.Mutex
	version  int
	services map[string]*corev1.Service // by namespace/name
	history  []metav1.WatchEvent
	changed  chan struct{} // closed by the next change
	log      []string      // requests for Services except watches, without the first list
	deleted  *metav1.Time  // deletionTimestamp of the CustomResourceDefinitions, set before the start
	// before is called before a Service is written, without the lock. An error is the answer.
	before func(svc *corev1.Service, apply func()) error
	// after is called after a Service has been written by the controller, with the lock.
	after func(written *corev1.Service)
}

func newAPIServer() *apiServer {
	return &apiServer{services: map[string]*corev1.Service{}, changed: make(chan struct{})}
}

// put stores the Service as a new version. The lock must be held.
func (s *apiServer) put(svc *corev1.Service) *corev1.Service {
	key := svc.Namespace + "/" + svc.Name
	kind := "MODIFIED"
	if s.services[key] == nil {
		kind = "ADDED"
	}
	s.version++
	svc = svc.DeepCopy()
	svc.APIVersion, svc.Kind, svc.ResourceVersion = "v1", "Service", strconv.Itoa(s.version)
	s.services[key] = svc
	event := metav1.WatchEvent{Type: kind}
	event.Object.Object = svc
	s.history = append(s.history, event)
	close(s.changed)
	s.changed = make(chan struct{})
	return svc
}

// update changes a Service, as another writer does, or creates it.
func (s *apiServer) update(svc *corev1.Service, change func(*corev1.Service)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if stored := s.services[svc.Namespace+"/"+svc.Name]; stored != nil {
		svc = stored.DeepCopy()
	}
	change(svc)
	s.put(svc)
}

// get returns a copy of a Service.
func (s *apiServer) get(key string) (svc *corev1.Service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.services[key].DeepCopy()
}

// requests returns the requests for Services since the last call.
func (s *apiServer) requests() (log []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	log, s.log = s.log, nil
	return log
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, watch := r.URL.Path, r.URL.Query().Get("watch") != ""
	parts := strings.Split(strings.TrimPrefix(path, "/api/v1/namespaces/"), "/")
	switch {
	case path == "/apis/networking.k8s.io/v1":
		respond(w, &metav1.APIResourceList{GroupVersion: networkingv1.SchemeGroupVersion.String()}, nil)
	case r.URL.Query().Get("sendInitialEvents") != "": // informers list instead
		respond(w, nil, apierrors.NewInvalid(schema.GroupKind{}, "", nil))
	case path == "/api/v1/services" && watch:
		s.watch(w, r)
	case watch:
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	case path == "/api/v1/services":
		respond(w, s.list(), nil)
	case len(parts) >= 3 && parts[1] == "services":
		svc, err := s.serveService(r, parts[0]+"/"+parts[2])
		respond(w, svc, err)
	case path == "/apis/"+v1alpha1.GroupVersion.String()+"/ipaddresspools":
		list := &v1alpha1.IPAddressPoolList{Items: []v1alpha1.IPAddressPool{*pool("p", "192.0.2.1-192.0.2.13")}}
		list.ResourceVersion = "1"
		respond(w, list, nil)
	case strings.HasPrefix(path, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/"):
		respond(w, map[string]any{
			"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": metav1.ObjectMeta{DeletionTimestamp: s.deleted},
			"spec":   map[string]any{"versions": []any{map[string]any{"name": v1alpha1.GroupVersion.Version, "served": true}}},
			"status": map[string]any{"conditions": []any{map[string]any{"type": "Established", "status": "True"}}},
		}, nil)
	case r.Method == http.MethodGet:
		respond(w, map[string]any{"metadata": map[string]any{"resourceVersion": "1"}}, nil)
	default: // a status of the pool
		respond(w, pool("p"), nil)
	}
}

func respond(w http.ResponseWriter, body any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if status, ok := err.(apierrors.APIStatus); ok {
		answer := status.Status()
		w.WriteHeader(int(answer.Code))
		body = answer
	} else if err != nil {
		panic(http.ErrAbortHandler) // the connection is lost
	}
	if err := json.NewEncoder(w).Encode(body); err != nil {
		panic(err)
	}
}

func (s *apiServer) list() *corev1.ServiceList {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, "list")
	list := &corev1.ServiceList{ListMeta: metav1.ListMeta{ResourceVersion: strconv.Itoa(s.version)}}
	for _, key := range slices.Sorted(maps.Keys(s.services)) {
		list.Items = append(list.Items, *s.services[key])
	}
	return list
}

func (s *apiServer) watch(w http.ResponseWriter, r *http.Request) {
	from, err := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	if err != nil {
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	for {
		s.mu.Lock()
		events, changed := s.history[from:], s.changed
		s.mu.Unlock()
		from += len(events)
		for _, e := range events {
			if err := json.NewEncoder(w).Encode(map[string]any{"type": e.Type, "object": e.Object.Object}); err != nil {
				return
			}
		}
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
			return
		case <-changed:
		}
	}
}

func (s *apiServer) serveService(r *http.Request, key string) (*corev1.Service, error) {
	s.mu.Lock()
	s.log = append(s.log, strings.ToLower(r.Method)+" "+key)
	svc, before := s.services[key], s.before
	s.mu.Unlock()
	if svc == nil {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "services"}, key)
	}
	if r.Method == http.MethodGet {
		return svc, nil
	}
	var body corev1.Service
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		panic(err)
	}
	apply := func() (*corev1.Service, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.apply(key, &body)
	}
	if before != nil {
		if err := before(svc, func() { _, _ = apply() }); err != nil {
			return nil, err
		}
	}
	return apply()
}

// apply replaces what the controller has applied before.
func (s *apiServer) apply(key string, body *corev1.Service) (*corev1.Service, error) {
	svc := s.services[key].DeepCopy()
	if svc.UID != body.UID || svc.ResourceVersion != body.ResourceVersion {
		return nil, apierrors.NewConflict(schema.GroupResource{Resource: "services"}, key, nil)
	}
	svc.Finalizers = body.Finalizers
	for _, name := range v1alpha1.RecordAnnotations {
		delete(svc.Annotations, name)
	}
	for name, value := range body.Annotations {
		metav1.SetMetaDataAnnotation(&svc.ObjectMeta, name, value)
	}
	svc.Status = body.Status
	svc.ManagedFields = ingressManager(v1alpha1.FieldManager)
	svc = s.put(svc)
	if s.after != nil {
		s.after(svc)
	}
	return svc, nil
}

// ingressManager are the managed fields of a writer of the ingress.
func ingressManager(name string) []metav1.ManagedFieldsEntry {
	return []metav1.ManagedFieldsEntry{{
		Manager: name, Operation: metav1.ManagedFieldsOperationApply, Subresource: "status", APIVersion: "v1", FieldsType: "FieldsV1",
		FieldsV1: metav1.NewFieldsV1(`{"f:status":{"f:loadBalancer":{"f:ingress":{}}}}`),
	}}
}

// RoundTrip serves a request without a network, so that the clock can be virtual.
func (s *apiServer) RoundTrip(r *http.Request) (*http.Response, error) {
	reader, writer := io.Pipe()
	w := &pipedResponse{header: http.Header{}, body: writer, started: make(chan struct{})}
	go func() {
		defer func() {
			if lost := recover(); lost != nil {
				w.err = io.ErrUnexpectedEOF
			}
			w.Flush()
			writer.Close()
		}()
		s.ServeHTTP(w, r)
	}()
	select {
	case <-w.started:
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	if w.err != nil {
		return nil, w.err
	}
	context.AfterFunc(r.Context(), func() { reader.CloseWithError(r.Context().Err()) })
	return &http.Response{StatusCode: w.code, Header: w.header, Body: reader, Request: r}, nil
}

type pipedResponse struct {
	header  http.Header
	body    io.Writer
	code    int
	err     error
	once    sync.Once
	started chan struct{}
}

func (w *pipedResponse) Header() http.Header { return w.header }

func (w *pipedResponse) WriteHeader(code int) { w.code = code }

func (w *pipedResponse) Flush() {
	w.once.Do(func() {
		if w.code == 0 {
			w.code = http.StatusOK
		}
		close(w.started)
	})
}

func (w *pipedResponse) Write(p []byte) (int, error) {
	w.Flush()
	return w.body.Write(p)
}

// connectController returns a controller of the API server, with its Events. The client
// uses the transport, or connects to the host without one.
func connectController(t *testing.T, host string, transport http.RoundTripper) (*Controller, informers.SharedInformerFactory, *record.FakeRecorder) {
	t.Helper()
	settings := &rest.Config{Host: host, Transport: transport, QPS: -1}
	kinds, err := client.New(settings)
	if err != nil {
		t.Fatal(err)
	}
	clientset, err := kubernetes.NewForConfig(settings)
	if err != nil {
		t.Fatal(err)
	}
	factory, events := informers.NewSharedInformerFactory(clientset, 0), record.NewFakeRecorder(1000)
	c, err := New(Options{
		Client: clientset, Fairlead: kinds, Informers: factory, Events: events, Log: slog.New(slog.DiscardHandler),
		Policy: providers.Policy{Mode: providers.BareMetal}, Parallel: 16,
	})
	if err != nil {
		t.Fatal(err)
	}
	return c, factory, events
}

// runController runs a leading controller with the API server until the test ends, and
// returns its Events.
func runController(t *testing.T, host string, transport http.RoundTripper) *record.FakeRecorder {
	t.Helper()
	c, factory, events := connectController(t, host, transport)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { c.Watch(ctx) })
	running.Go(func() { c.Run(ctx) })
	factory.Start(ctx.Done())
	t.Cleanup(func() {
		cancel()
		running.Wait()
		factory.Shutdown()
	})
	return events
}

// shownAddress is the address in the status of the Service, "" without one.
func shownAddress(svc *corev1.Service) string {
	if len(svc.Status.LoadBalancer.Ingress) == 0 {
		return ""
	}
	return svc.Status.LoadBalancer.Ingress[0].IP
}

// waitUntil waits for the condition in real time.
func waitUntil(t *testing.T, what string, met func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !met(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not met: %s", what)
		}
	}
}
