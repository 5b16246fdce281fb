package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/scale"
	"k8s.io/client-go/tools/record"
)

func discoveries(_ context.Context, c *cluster) error {
	client := c.typed.Discovery()
	version, err := client.ServerVersion()
	if err != nil {
		return err
	}
	groups, lists, err := client.ServerGroupsAndResources()
	if err != nil {
		return err
	}
	preferred, err := client.ServerPreferredResources()
	if err != nil {
		return err
	}
	// The document says that the definitions are in version 3.
	if _, err := client.OpenAPISchema(); err != nil {
		return fmt.Errorf("OpenAPI v2: %w", err)
	}
	paths, err := client.OpenAPIV3().Paths()
	if err != nil {
		return fmt.Errorf("OpenAPI v3: %w", err)
	}
	for _, group := range []string{"api/v1", "apis/apps/v1", "apis/networking.istio.io/v1"} {
		if paths[group] == nil {
			return fmt.Errorf("OpenAPI v3 lacks %s", group)
		}
		schema, err := paths[group].Schema("application/json")
		if err != nil {
			return err
		}
		if !json.Valid(schema) {
			return fmt.Errorf("OpenAPI v3 of %s is no JSON", group)
		}
	}
	if len(groups) < 10 || len(lists) < 15 || len(preferred) < 15 {
		return fmt.Errorf("%d groups, %d lists, %d preferred lists", len(groups), len(lists), len(preferred))
	}
	return equal("the major version", version.Major, "1")
}

func (c *cluster) mapper() *restmapper.DeferredDiscoveryRESTMapper {
	return restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(c.typed.Discovery()))
}

func restMapper(_ context.Context, c *cluster) error {
	mapper := restmapper.NewShortcutExpander(c.mapper(), memory.NewMemCacheClient(c.typed.Discovery()), nil)
	for name, expected := range map[string]string{"deploy": "apps/v1 Deployment", "vs": "networking.istio.io/v1 VirtualService", "pods": "/v1 Pod"} {
		kind, err := mapper.KindFor(schema.GroupVersionResource{Resource: name})
		if err := all(err, equal(name, kind.Group+"/"+kind.Version+" "+kind.Kind, expected)); err != nil {
			return err
		}
	}
	mapping, err := mapper.RESTMapping(schema.GroupKind{Group: "rbac.authorization.k8s.io", Kind: "ClusterRole"})
	if err != nil {
		return err
	}
	_, unknown := mapper.RESTMapping(schema.GroupKind{Group: "example.com", Kind: "Nothing"})
	return all(equal("the scope", mapping.Scope.Name(), meta.RESTScopeNameRoot), is("an unknown kind", unknown, meta.IsNoMatchError))
}

func scales(ctx context.Context, c *cluster) error {
	deployments := c.typed.AppsV1().Deployments(namespace)
	if _, err := deployments.Create(ctx, web("scaled", 1), metav1.CreateOptions{}); err != nil {
		return err
	}
	current, err := deployments.GetScale(ctx, "scaled", metav1.GetOptions{})
	if err != nil {
		return err
	}
	current.Spec.Replicas = 2
	if _, err := deployments.UpdateScale(ctx, "scaled", current, metav1.UpdateOptions{}); err != nil {
		return err
	}
	if err := c.deploymentHas(ctx, "scaled", 2); err != nil {
		return err
	}
	mapper := c.mapper()
	client, err := scale.NewForConfig(c.config, mapper, dynamic.LegacyAPIPathResolverFunc, scale.NewDiscoveryScaleKindResolver(c.typed.Discovery()))
	if err != nil {
		return err
	}
	resource := schema.GroupResource{Group: "apps", Resource: "deployments"}
	generic, err := client.Scales(namespace).Get(ctx, resource, "scaled", metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("generic client: %w", err)
	}
	if err := equal("the selector", generic.Status.Selector, "app=scaled"); err != nil {
		return err
	}
	generic.Spec.Replicas = 1
	if _, err := client.Scales(namespace).Update(ctx, resource, generic, metav1.UpdateOptions{}); err != nil {
		return err
	}
	return all(c.deploymentHas(ctx, "scaled", 1), deployments.Delete(ctx, "scaled", metav1.DeleteOptions{}))
}

func evictions(ctx context.Context, c *cluster) error {
	if _, err := c.typed.AppsV1().Deployments(namespace).Create(ctx, web("evicted", 2), metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := c.deploymentHas(ctx, "evicted", 2); err != nil {
		return err
	}
	budgets := c.typed.PolicyV1().PodDisruptionBudgets(namespace)
	budget := object[*policyv1.PodDisruptionBudget](`{"metadata": {"name": "evicted"}, "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "evicted"}}}}`)
	made, err := budgets.Create(ctx, budget, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	// A lab has no controller of budgets: what it would write.
	made.Status = policyv1.PodDisruptionBudgetStatus{ObservedGeneration: made.Generation, CurrentHealthy: 2, DesiredHealthy: 2, ExpectedPods: 2}
	if _, err := budgets.UpdateStatus(ctx, made, metav1.UpdateOptions{}); err != nil {
		return err
	}
	list, err := c.typed.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=evicted"})
	if err != nil {
		return err
	}
	evict := func() error {
		eviction := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: list.Items[0].Name, Namespace: namespace}}
		return c.typed.CoreV1().Pods(namespace).EvictV1(ctx, eviction)
	}
	refused := evict()
	if err := budgets.Delete(ctx, "evicted", metav1.DeleteOptions{}); err != nil {
		return err
	}
	if err := evict(); err != nil {
		return err
	}
	err = eventually(ctx, func() error {
		_, err := c.typed.CoreV1().Pods(namespace).Get(ctx, list.Items[0].Name, metav1.GetOptions{})
		return is("the evicted pod", err, apierrors.IsNotFound)
	})
	return all(is("against the budget", refused, apierrors.IsTooManyRequests), err,
		c.deploymentHas(ctx, "evicted", 2), c.typed.AppsV1().Deployments(namespace).Delete(ctx, "evicted", metav1.DeleteOptions{}))
}

func accessReviews(ctx context.Context, c *cluster) error {
	account := "system:serviceaccount:" + namespace + ":default"
	attributes := &authorizationv1.ResourceAttributes{Namespace: namespace, Verb: "get", Resource: "configmaps"}
	review := func() (bool, error) {
		made, err := c.typed.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{User: account, ResourceAttributes: attributes}}, metav1.CreateOptions{})
		if err != nil {
			return false, err
		}
		return made.Status.Allowed, nil
	}
	before, err := review()
	if err != nil {
		return err
	}
	role := object[*rbacv1.Role](`{"metadata": {"name": "reads"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]}`)
	if _, err := c.typed.RbacV1().Roles(namespace).Create(ctx, role, metav1.CreateOptions{}); err != nil {
		return err
	}
	binding := object[*rbacv1.RoleBinding](`{"metadata": {"name": "reads"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reads"},
		"subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "` + namespace + `"}]}`)
	if _, err := c.typed.RbacV1().RoleBindings(namespace).Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := eventually(ctx, func() error {
		allowed, err := review()
		return all(err, equal("allowed", allowed, true))
	}); err != nil {
		return err
	}
	self, err := c.typed.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: "/metrics", Verb: "get"}}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	local, err := c.typed.AuthorizationV1().LocalSubjectAccessReviews(namespace).Create(ctx, &authorizationv1.LocalSubjectAccessReview{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace},
		Spec:       authorizationv1.SubjectAccessReviewSpec{User: account, ResourceAttributes: attributes}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	rules, err := c.typed.AuthorizationV1().SelfSubjectRulesReviews().Create(ctx, &authorizationv1.SelfSubjectRulesReview{
		Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: namespace}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if len(rules.Status.ResourceRules) == 0 {
		return fmt.Errorf("an administrator has no rules")
	}
	return all(equal("allowed before", before, false), equal("allowed to oneself", self.Status.Allowed, true), equal("allowed locally", local.Status.Allowed, true))
}

func tokens(ctx context.Context, c *cluster) error {
	seconds := int64(600)
	accounts := c.typed.CoreV1().ServiceAccounts(namespace)
	issued, err := accounts.CreateToken(ctx, "default", &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{Audiences: []string{"checks"}, ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	review := func(audience string) (*authenticationv1.TokenReview, error) {
		return c.typed.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
			Spec: authenticationv1.TokenReviewSpec{Token: issued.Status.Token, Audiences: []string{audience}}}, metav1.CreateOptions{})
	}
	good, err := review("checks")
	if err != nil {
		return err
	}
	other, err := review("others")
	if err != nil {
		return err
	}
	plain, err := accounts.CreateToken(ctx, "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	config := rest.AnonymousClientConfig(c.config)
	config.BearerToken = plain.Status.Token
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	who, err := client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	_, forbidden := client.CoreV1().Secrets(namespace).List(ctx, metav1.ListOptions{})
	config.BearerToken = "nonsense"
	nobody, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	_, unauthorized := nobody.CoreV1().Secrets(namespace).List(ctx, metav1.ListOptions{})
	return all(equal("authenticated", good.Status.Authenticated, true), equal("authenticated for others", other.Status.Authenticated, false),
		equal("the user", who.Status.UserInfo.Username, "system:serviceaccount:"+namespace+":default"),
		is("secrets", forbidden, apierrors.IsForbidden), is("a made-up token", unauthorized, apierrors.IsUnauthorized))
}

func impersonation(ctx context.Context, c *cluster) error {
	config := rest.CopyConfig(c.config)
	config.Impersonate = rest.ImpersonationConfig{UserName: "somebody", Groups: []string{"a", "b"}, Extra: map[string][]string{"scopes": {"one"}}}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	who, err := client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	return all(equal("the user", who.Status.UserInfo.Username, "somebody"), has(fmt.Sprint(who.Status.UserInfo.Groups), "a b"),
		equal("extra", fmt.Sprint(who.Status.UserInfo.Extra["scopes"]), "[one]"))
}

func events(ctx context.Context, c *cluster) error {
	broadcaster := record.NewBroadcaster()
	defer broadcaster.Shutdown()
	sink := &kubernetesEvents{c.typed, ctx}
	broadcaster.StartRecordingToSink(sink)
	pod, err := c.typed.CoreV1().Pods(namespace).Get(ctx, "clock", metav1.GetOptions{})
	if err != nil {
		return err
	}
	recorder := broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "client-go-checks"})
	// The second one is a patch that counts.
	for range 2 {
		recorder.Event(pod, corev1.EventTypeNormal, "Checked", "by client-go")
	}
	return eventually(ctx, func() error {
		core, err := c.typed.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{FieldSelector: "reason=Checked,involvedObject.name=clock"})
		if err != nil {
			return err
		}
		newer, err := c.typed.EventsV1().Events(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		var found *eventsv1.Event
		for index := range newer.Items {
			if newer.Items[index].Reason == "Checked" {
				found = &newer.Items[index]
			}
		}
		if found == nil || len(core.Items) != 1 {
			return fmt.Errorf("%d events, found in the newer group: %v", len(core.Items), found)
		}
		return all(equal("the count", core.Items[0].Count, 2), equal("what it regards", found.Regarding.Name, "clock"))
	})
}

// kubernetesEvents writes events as controllers do.
type kubernetesEvents struct {
	client kubernetes.Interface
	ctx    context.Context
}

func (k *kubernetesEvents) Create(event *corev1.Event) (*corev1.Event, error) {
	return k.client.CoreV1().Events(event.Namespace).CreateWithEventNamespaceWithContext(k.ctx, event)
}
func (k *kubernetesEvents) Update(event *corev1.Event) (*corev1.Event, error) {
	return k.client.CoreV1().Events(event.Namespace).UpdateWithEventNamespaceWithContext(k.ctx, event)
}
func (k *kubernetesEvents) Patch(event *corev1.Event, data []byte) (*corev1.Event, error) {
	return k.client.CoreV1().Events(event.Namespace).PatchWithEventNamespaceWithContext(k.ctx, event, data)
}

// warnings are what the server says beside a response.
func warnings(ctx context.Context, c *cluster) error {
	config := rest.CopyConfig(c.config)
	heard := &warningList{}
	config.WarningHandler = heard
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	policy := schema.GroupVersionResource{Group: "security.istio.io", Version: "v1", Resource: "authorizationpolicies"}
	object := virtualService("warned")
	object.Object["apiVersion"], object.Object["kind"] = "security.istio.io/v1", "AuthorizationPolicy"
	object.Object["spec"] = map[string]any{"nothing": true}
	if _, err := client.Resource(policy).Namespace(namespace).Create(ctx, object, metav1.CreateOptions{FieldValidation: metav1.FieldValidationWarn}); err != nil {
		return err
	}
	heard.Lock()
	defer heard.Unlock()
	return all(has(fmt.Sprint(heard.texts), `unknown field "spec.nothing"`), client.Resource(policy).Namespace(namespace).Delete(ctx, "warned", metav1.DeleteOptions{}))
}

type warningList struct {
	sync.Mutex
	texts []string
}

func (w *warningList) HandleWarningHeader(_ int, _ string, text string) {
	w.Lock()
	defer w.Unlock()
	w.texts = append(w.texts, text)
}

func reasons(ctx context.Context, c *cluster) error {
	maps := c.typed.CoreV1().ConfigMaps(namespace)
	_, absent := maps.Get(ctx, "absent", metav1.GetOptions{})
	_, invalid := maps.Create(ctx, configMap("Not_A_Name", nil), metav1.CreateOptions{})
	_, elsewhere := c.typed.CoreV1().ConfigMaps("no-such-namespace").Create(ctx, configMap("a", nil), metav1.CreateOptions{})
	broken := web("broken", 1)
	broken.Spec.Selector = nil
	_, deployment := c.typed.AppsV1().Deployments(namespace).Create(ctx, broken, metav1.CreateOptions{})
	method := c.typed.CoreV1().RESTClient().Post().AbsPath("/version").Do(ctx).Error()
	return all(is("get", absent, apierrors.IsNotFound), is("a name", invalid, apierrors.IsInvalid), is("a namespace", elsewhere, apierrors.IsNotFound),
		is("a deployment", deployment, apierrors.IsInvalid), has(fmt.Sprint(deployment), "spec.selector"), is("a method", method, apierrors.IsMethodNotSupported))
}
