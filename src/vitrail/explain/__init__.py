"""Explanations: Grad-CAM and HR-CAM of both networks and of any other, and how far two methods agree.

Explain tiles `[n, h, w, 3]` of bytes with a run's classifier::

    from vitrail.explain.explainer import Explainer
    from vitrail.explain.methods.hrcam import fit
    from vitrail.models.store import load_model

    explainer = Explainer(load_model(run / "classifier"), torch.device("cpu"))
    for saliency in explainer.gradcam(tiles):
        saliency.values  # [h', w'], signed, at the feature map's own resolution
        saliency.upsample()  # at the tile's

    pooled = explainer.pool(training_tiles)
    auxiliary = fit(explainer.layers, pooled, is_tumor, l2=1.0)
    saliencies = explainer.hrcam(tiles, auxiliary)
"""
