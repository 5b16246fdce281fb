// Drives client-go against a cluster of a lab: typed and dynamic clients, informers, leader election, discovery, streams.
// Prints a line for each check, `ok NAME` or `failed NAME: REASON`, and exits with 1 if one failed.
//
//	client-go-checks KUBECONFIG [TEXT]     only the checks whose name has the text
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	namespace = "client-go-checks"
	// How long one check may take.
	limit = 90 * time.Second
)

// A cluster and the clients that all checks use.
type cluster struct {
	config  *rest.Config
	typed   kubernetes.Interface
	dynamic dynamic.Interface
}

type check struct {
	name string
	run  func(context.Context, *cluster) error
}

var checks = []check{
	{"typed client: create, get, update, delete", typedClient},
	{"protobuf and CBOR clients", otherEncodings},
	{"dynamic client: custom resources and their status", dynamicClient},
	{"server-side apply: typed configurations, conflicts", serverSideApply},
	{"patches: JSON, merge, strategic", patches},
	{"update conflicts are retried", conflicts},
	{"paginated lists", pagination},
	{"label and field selectors", selectors},
	{"metadata-only client", metadataOnly},
	{"watch from a resource version, bookmarks", watches},
	{"watch of an expired resource version", expiredWatch},
	{"streamed lists (sendInitialEvents)", streamedList},
	{"informers: events, resync, indexes", informers},
	{"dynamic informers", dynamicInformers},
	{"delete collection, preconditions, finalizers", deletions},
	{"leader election by Lease", leaderElection},
	{"discovery: groups, aggregated, OpenAPI v2 and v3", discoveries},
	{"RESTMapper", restMapper},
	{"scale of every scalable kind", scales},
	{"status subresource", statuses},
	{"eviction and disruption budgets", evictions},
	{"SubjectAccessReview and its relatives", accessReviews},
	{"TokenRequest and TokenReview", tokens},
	{"impersonation", impersonation},
	{"events of both API groups", events},
	{"logs, followed", logs},
	{"exec over WebSocket", execWebSocket},
	{"exec over SPDY", execSPDY},
	{"exec in a terminal, resized", execTerminal},
	{"attach over SPDY", attachSPDY},
	{"port forwarding over SPDY and WebSocket", portForward},
	{"proxy to a pod and a Service", proxies},
	{"warnings of the server", warnings},
	{"errors have their reasons", reasons},
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: client-go-checks KUBECONFIG [TEXT]")
		os.Exit(2)
	}
	c, err := connect(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	failed := false
	for _, check := range checks {
		if len(os.Args) > 2 && !strings.Contains(check.name, os.Args[2]) {
			continue
		}
		if err := run(c, check); err != nil {
			failed = true
			fmt.Printf("failed %s: %s\n", check.name, strings.ReplaceAll(err.Error(), "\n", " "))
		} else {
			fmt.Println("ok " + check.name)
		}
	}
	if err := c.end(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	if failed {
		os.Exit(1)
	}
}

// connect makes the clients, the namespace and a pod that all checks may use.
func connect(kubeconfig string) (*cluster, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = 200, 400
	c := &cluster{config: config}
	if c.typed, err = kubernetes.NewForConfig(config); err != nil {
		return nil, err
	}
	if c.dynamic, err = dynamic.NewForConfig(config); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	ns := object[*namespaceType](`{"metadata": {"name": "` + namespace + `"}}`)
	if _, err := c.typed.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	// The account is created by a controller.
	if err := eventually(ctx, func() error {
		_, err := c.typed.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
		return err
	}); err != nil {
		return nil, err
	}
	if _, err := c.typed.CoreV1().Pods(namespace).Create(ctx, clock(), metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	return c, c.podIsReady(ctx, "clock")
}

// end removes what the checks left.
func (c *cluster) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := c.typed.CoreV1().Namespaces().Delete(ctx, namespace, metav1.DeleteOptions{}); err != nil {
		return err
	}
	return eventually(ctx, func() error {
		_, err := c.typed.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("namespace %s is still there: %v", namespace, err)
	})
}

func run(c *cluster, check check) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	defer func() {
		if panicked := recover(); panicked != nil {
			err = fmt.Errorf("panic: %v", panicked)
		}
	}()
	return check.run(ctx, c)
}

// eventually repeats a condition until it holds or the context ends.
func eventually(ctx context.Context, condition func() error) error {
	for {
		err := condition()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("never came: %w", err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// all joins the errors of several expectations.
func all(errs ...error) error { return errors.Join(errs...) }

// equal is an error unless both values are equal.
func equal[T comparable](what string, got, expected T) error {
	if got != expected {
		return fmt.Errorf("%s is %v, expected %v", what, got, expected)
	}
	return nil
}

// has is an error unless the text contains the part.
func has(text, part string) error {
	if !strings.Contains(text, part) {
		return fmt.Errorf("%q is not in %q", part, text)
	}
	return nil
}

// is is an error unless the error has the expected reason.
func is(what string, err error, expected func(error) bool) error {
	if err == nil || !expected(err) {
		return fmt.Errorf("%s: unexpected outcome: %v", what, err)
	}
	return nil
}
